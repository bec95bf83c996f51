//! The keys as tables in Markdown: `docs/node-keys.md`.

use super::{Key, Kind, Need, keys};

/// The whole page.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Keys of node.toml\n\nEvery key, by table. This page is made by `ingot config schema --markdown` from the \
         descriptions that the node itself reads by;\nwhat the keys are for stands in [node-config.md](node-config.md), and \
         [node.schema.json](node.schema.json) has the same as a\nJSON Schema. `[]` stands for each element of a list.\n",
    );
    let mut tables: Vec<&str> = Vec::new();
    keys().map(Key::table).for_each(|table| {
        if !tables.contains(&table) {
            tables.push(table);
        }
    });
    for table in tables {
        let title = if table.is_empty() { "The document".to_owned() } else { format!("`{table}`") };
        text.push_str(&format!("\n## {title}\n\n| Key | Holds | Default | Meaning |\n|---|---|---|---|\n"));
        for key in keys().filter(|key| key.table() == table) {
            text.push_str(&row(key));
        }
    }
    text
}

fn row(key: &Key) -> String {
    let mut holds = holds(key);
    if key.secret {
        holds.push_str("; a secret");
    }
    let default = match key.need {
        Need::Required => "required".to_owned(),
        Need::By(who) if key.unless.is_empty() => format!("required for {}", who.join(", ")),
        Need::By(who) => format!("required for {}, but for {}", who.join(", "), key.unless.join(", ")),
        Need::Optional if key.default.is_empty() => "none".to_owned(),
        Need::Optional => key.default.to_owned(),
    };
    let mut meaning = key.doc.to_owned();
    if !key.only.is_empty() {
        meaning.push_str(&format!(" Only {}.", key.whose()));
    }
    if !key.example.is_empty() && !key.secret && key.example.len() < 60 {
        meaning.push_str(&format!(" `{}`", key.example));
    }
    let cell = |text: &str| text.replace('|', "\\|");
    format!("| `{}` | {} | {} | {} |\n", key.name(), cell(&holds), cell(&default), cell(&meaning))
}

/// What a key holds, for people.
pub fn holds(key: &Key) -> String {
    match key.kind {
        Kind::Text(form) => form.name.to_owned(),
        Kind::Texts(form) => format!("a list, each {}", form.name),
        Kind::Choice(choices) => choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", "),
        Kind::Integer(minimum, maximum) if minimum == maximum => format!("`{minimum}`"),
        Kind::Integer(minimum, i64::MAX) => format!("a number from {minimum}"),
        Kind::Integer(minimum, maximum) => format!("a number from {minimum} to {maximum}"),
        Kind::Boolean => "`true` or `false`".to_owned(),
        Kind::Table => "a table".to_owned(),
        Kind::Tables => "a list of tables".to_owned(),
        Kind::Map => "a table of names and values".to_owned(),
        Kind::IntegerOrText(form) => format!("a number, or {}", form.name),
        Kind::BooleanOrText(form) => format!("`true`, `false`, or {}", form.name),
        Kind::BooleanOrTexts(form) => format!("`true`, `false`, or a list: {}", form.name),
        Kind::OneOrMore(form) => format!("{}, or a list of them", form.name),
        Kind::IntegersOrTexts(form) => format!("a list, each a number or {}", form.name),
        Kind::Reference => "an interface, or a table like `match`".to_owned(),
        Kind::References => "a list of interfaces".to_owned(),
        Kind::Commands => "a list of commands".to_owned(),
    }
}
