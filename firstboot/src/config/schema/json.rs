//! The keys as a JSON Schema (draft 2020-12), for editors and for programs that write `node.toml`.
//!
//! Whatever a node accepts is valid by the schema; the schema does not know everything that a node refuses (addresses
//! that contradict each other, weak secrets), so `ingot config check` has the last word.

use serde_json::{Map, Value, json};

use super::{Form, Key, Kind, Need, find, keys};

/// The schema of a whole document.
pub fn json_schema() -> Value {
    let shared = keys().filter(|key| key.table().is_empty() && !matches!(key.path, "machine" | "version"));
    let properties = properties_of(shared);
    let version = find("version").map_or(Value::Null, key_schema);
    let machine_match = merge(table_schema("machine[].match"), json!({ "minProperties": 1 }));
    let mut machine_properties: Map<String, Value> = reference_all(&properties);
    machine_properties.insert("match".into(), machine_match);
    let mut document_properties = reference_all(&properties);
    document_properties.insert("version".into(), version);
    document_properties.insert(
        "machine".into(),
        json!({
            "type": "array",
            "description": find("machine").map_or("", |key| key.doc),
            "items": {
                "type": "object",
                "properties": machine_properties,
                "required": ["match"],
                "additionalProperties": false,
            },
        }),
    );
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "node.toml of Ingot",
        "description": "What a node is to be. Whatever a node accepts is valid by this schema; `ingot config check` knows more.",
        "type": "object",
        "properties": document_properties,
        "required": ["version"],
        "additionalProperties": false,
        "$defs": properties,
    })
}

fn reference_all(properties: &Map<String, Value>) -> Map<String, Value> {
    properties.keys().map(|name| (name.clone(), json!({ "$ref": format!("#/$defs/{name}") }))).collect()
}

fn merge(mut schema: Value, more: Value) -> Value {
    if let (Some(schema), Value::Object(more)) = (schema.as_object_mut(), more) {
        schema.extend(more);
    }
    schema
}

/// A table with the keys that are described in it.
fn table_schema(table: &str) -> Value {
    let inside: Vec<&'static Key> = keys().filter(|key| key.table() == table).collect();
    let properties = properties_of(inside.iter().copied());
    // What a document leaves out, another one or the role may give; only what has no sense without a key needs it.
    let lists = table.ends_with("[]") || table.rsplit('.').next() == Some("match");
    // A key of some drivers is not required in a table that others have too.
    let whose = keys().find(|key| key.path == table.trim_end_matches("[]")).map_or(&[][..], |key| key.only);
    let is_required = |key: &Key| lists && key.need == Need::Required && (key.only.is_empty() || key.only == whose);
    let required: Vec<&str> = inside.iter().filter(|key| is_required(key)).map(|key| key.name()).collect();
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// The keys of one table. A key that drivers know as different things may be any of them: which driver it is may
/// stand in another document.
fn properties_of(keys: impl Iterator<Item = &'static Key>) -> Map<String, Value> {
    let mut all: Map<String, Value> = Map::new();
    for key in keys {
        let schema = key_schema(key);
        match all.get_mut(key.name()) {
            None => {
                all.insert(key.name().to_owned(), schema);
            }
            Some(known) => match known.get_mut("anyOf").and_then(Value::as_array_mut) {
                Some(several) => several.push(schema),
                None => *known = json!({ "anyOf": [known.clone(), schema] }),
            },
        }
    }
    all
}

fn key_schema(key: &Key) -> Value {
    let schema = match key.kind {
        Kind::Text(form) => text(form),
        Kind::Texts(form) => json!({ "type": "array", "items": text(form) }),
        Kind::Choice(choices) => json!({ "enum": choices }),
        Kind::Integer(minimum, maximum) if minimum == maximum => json!({ "const": minimum }),
        Kind::Integer(minimum, maximum) => json!({ "type": "integer", "minimum": minimum, "maximum": maximum }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Table => table_schema(key.path),
        Kind::Tables => json!({ "type": "array", "items": table_schema(&format!("{}[]", key.path)) }),
        Kind::Map => json!({
            "type": "object",
            "additionalProperties": { "type": ["string", "integer", "boolean"] },
        }),
        Kind::IntegerOrText(form) => json!({ "anyOf": [{ "type": "integer" }, text(form)] }),
        Kind::BooleanOrText(form) => json!({ "anyOf": [{ "type": "boolean" }, text(form)] }),
        Kind::BooleanOrTexts(form) => {
            json!({ "anyOf": [{ "type": "boolean" }, { "type": "array", "items": text(form) }] })
        }
        Kind::OneOrMore(form) => json!({ "anyOf": [text(form), { "type": "array", "items": text(form) }] }),
        Kind::IntegersOrTexts(form) => {
            json!({ "type": "array", "items": { "anyOf": [{ "type": "integer" }, text(form)] } })
        }
        Kind::Reference => reference(),
        Kind::References => json!({ "type": "array", "items": reference() }),
        Kind::Commands => json!({
            "type": "array",
            "items": { "anyOf": [
                { "type": "string" },
                { "type": "array", "items": { "type": "string" }, "minItems": 1 },
            ] },
        }),
    };
    let mut more = json!({ "description": key.doc });
    if key.secret {
        more["writeOnly"] = json!(true);
    } else if let Some(example) = example(key) {
        more["examples"] = json!([example]);
    }
    merge(schema, more)
}

/// An interface, as members and parents are written.
fn reference() -> Value {
    json!({ "anyOf": [{ "type": "string" }, table_schema("network[].match")] })
}

fn text(form: Form) -> Value {
    if form.pattern.is_empty() {
        json!({ "type": "string" })
    } else {
        json!({ "type": "string", "pattern": form.pattern })
    }
}

/// The example as JSON. All examples are texts, numbers, booleans and lists or tables of these.
fn example(key: &Key) -> Option<Value> {
    let table: toml::Table = toml::from_str(&format!("x = {}", key.example)).ok()?;
    serde_json::to_value(table.get("x")?).ok()
}
