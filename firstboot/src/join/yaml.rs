//! Writes plain data as YAML 1.2 in block style, for programs that read their settings so.
//!
//! Every text is in double quotes with JSON's escapes, which YAML's double quotes include, so no value can become
//! anything but the text that it is.

use serde_json::Value;

/// The text of one document, with a line end.
pub fn document(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    text
}

fn write(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                text.push_str(&format!("{indent}{}:", scalar_key(key)));
                nested(value, depth, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                text.push_str(&format!("{indent}-"));
                nested(item, depth, text);
            }
        }
        // Scalars and empty collections are the same in JSON and in YAML.
        other => text.push_str(&format!("{indent}{other}\n")),
    }
}

fn nested(value: &Value, depth: usize, text: &mut String) {
    let block = matches!(value, Value::Object(map) if !map.is_empty())
        || matches!(value, Value::Array(items) if !items.is_empty());
    if block {
        text.push('\n');
        write(value, depth + 1, text);
    } else {
        text.push_str(&format!(" {value}\n"));
    }
}

fn scalar_key(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    // Words that YAML 1.1 takes for something else are quoted, as is everything that is not a plain word.
    let word = !key.is_empty() && key.chars().all(plain) && key.starts_with(|c: char| c.is_ascii_lowercase());
    let special = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"].contains(&key);
    if word && !special { key.to_owned() } else { Value::from(key).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_style_with_quoted_texts() {
        let value = serde_json::json!({ "server": "https://a:6443", "node-label": ["a=b", "no"], "x": { "yes": true, "e": [] } });
        assert_eq!(
            document(&value),
            "node-label:\n  - \"a=b\"\n  - \"no\"\nserver: \"https://a:6443\"\nx:\n  e: []\n  \"yes\": true\n"
        );
    }

    fn any_value() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[ -~\\n\\té:#]{0,12}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[ -~]{0,8}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest::proptest! {
        #[test]
        fn a_yaml_reader_reads_back_what_was_written(value in any_value()) {
            let text = document(&value);
            let back: Value = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            proptest::prop_assert_eq!(back, value);
        }
    }
}
