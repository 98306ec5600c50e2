//! The configuration for people: every value in effect, the schema, the reference page.
//!
//! Called by the `config` commands. All texts come from the comments in `file`.

use super::file::File;
use super::{Config, ConfigError, Overrides, keys};
use core::fmt::Write as _;
use serde_json::Value;
use std::path::Path;
use toml::de::DeTable;

/// The JSON Schema of the file, as text.
#[must_use]
pub fn schema() -> String {
    format!("{:#}\n", keys::schema())
}

/// Every value in effect, as a commented file that says where each comes from.
///
/// # Errors
/// As [`Config::load`].
pub fn explain(path: Option<&Path>, overrides: &Overrides) -> Result<String, ConfigError> {
    let (text, file) = effective(path, overrides)?;
    Ok(commented(&file, &origins(&text, path, overrides)))
}

/// The same as JSON: for each key of each section its `value`, and `from` where it comes.
///
/// # Errors
/// As [`Config::load`].
pub fn explain_json(path: Option<&Path>, overrides: &Overrides) -> Result<String, ConfigError> {
    fn annotate(section: &mut Value, origin: impl Fn(&str) -> String) {
        let Some(keys) = section.as_object_mut() else { return };
        keys.retain(|_, value| !value.is_null());
        for (key, value) in keys {
            *value = serde_json::json!({ "value": value.take(), "from": origin(key) });
        }
    }
    let (text, file) = effective(path, overrides)?;
    let origin = origins(&text, path, overrides);
    let mut values = serde_json::to_value(file).unwrap_or_default();
    for (section, value) in values.as_object_mut().into_iter().flatten() {
        match value {
            Value::Array(elements) => {
                for (index, element) in elements.iter_mut().enumerate() {
                    annotate(element, |key| origin(&[section, &index.to_string(), key]));
                }
            }
            value => annotate(value, |key| origin(&[section, key])),
        }
    }
    Ok(format!("{values:#}\n"))
}

/// The text of the file, and the file with every value filled in.
fn effective(path: Option<&Path>, overrides: &Overrides) -> Result<(String, File), ConfigError> {
    Config::load(path, overrides)?;
    let text = path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let problems = |problems| ConfigError { path: path.map(Path::to_owned), problems };
    let (_, file) = Config::parse(&text, overrides).map_err(problems)?;
    Ok((text, file))
}

/// Says where the value at a place comes from.
fn origins<'o>(
    text: &'o str,
    path: Option<&'o Path>,
    overrides: &'o Overrides,
) -> impl Fn(&[&str]) -> String + 'o {
    let parsed = DeTable::parse(text);
    move |place| {
        let line = parsed.as_ref().ok().and_then(|t| keys::line_of(text, t.get_ref(), place));
        match (from_command_line(place, overrides), line, path) {
            (true, ..) => "from the command line".to_owned(),
            (_, Some(line), Some(path)) => format!("{}:{line}", path.display()),
            _ => "by default".to_owned(),
        }
    }
}

fn commented(file: &File, origin: &dyn Fn(&[&str]) -> String) -> String {
    let schema = keys::schema();
    let values = serde_json::to_value(file).unwrap_or_default();
    let mut page = String::new();
    for (section, node) in keys::properties(&schema) {
        let node = keys::resolve(&schema, node);
        match values.get(section) {
            Some(Value::Array(elements)) => {
                let node = node.get("items").map_or(node, |items| keys::resolve(&schema, items));
                for (index, element) in elements.iter().enumerate() {
                    let index = index.to_string();
                    let _ = writeln!(page, "[[{section}]]");
                    section_keys(&mut page, &schema, node, element, |key| {
                        origin(&[section, &index, key])
                    });
                }
            }
            Some(value) => {
                let _ = writeln!(page, "[{section}]");
                section_keys(&mut page, &schema, node, value, |key| origin(&[section, key]));
            }
            None => {}
        }
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

fn from_command_line(place: &[&str], overrides: &Overrides) -> bool {
    match place {
        ["server", "data"] => overrides.data.is_some(),
        ["server", "cores"] => overrides.cores.is_some(),
        ["dev", "ports"] => overrides.ports.is_some(),
        ["listener", ..] => overrides.dev,
        _ => false,
    }
}

fn section_keys(
    page: &mut String,
    schema: &Value,
    node: &Value,
    value: &Value,
    origin: impl Fn(&str) -> String,
) {
    for (key, child) in keys::properties(node) {
        let Some(value) = value.get(key).filter(|value| !value.is_null()) else { continue };
        for line in wrap(&description(schema, child), 96) {
            let _ = writeln!(page, "# {line}");
        }
        let value =
            toml::Value::try_from(value).map_or_else(|_| value.to_string(), |v| v.to_string());
        let _ = writeln!(page, "{key} = {value} # {}", origin(key));
    }
    page.push('\n');
}

/// docs/config.md.
#[must_use]
pub fn reference() -> String {
    let schema = keys::schema();
    let mut page = String::from(
        "# Configuration\n\n\
         <!-- Made from engine/src/config/file.rs by `fsmtp-engine config reference`. -->\n\n\
         `fsmtp-engine --config FILE` reads one TOML file. Every key is optional; an unknown key\n\
         is an error that names the nearest known one and the line. `fsmtp-engine config test`\n\
         checks a file, `config explain` prints every value in effect and where it comes from,\n\
         `config schema` prints a JSON Schema; the first two take `--json`. `fsmtp-engine test`\n\
         goes on to look at what the file names: certificates, ports, the data folder. A change\n\
         needs a restart.\n",
    );
    for (section, node) in keys::properties(&schema) {
        let text = description(&schema, node);
        let node = keys::resolve(&schema, node);
        let items = node.get("items").map(|items| keys::resolve(&schema, items));
        let (open, close) = if items.is_some() { ("[[", "]]") } else { ("[", "]") };
        let _ = write!(page, "\n## {open}{section}{close}\n\n");
        for line in wrap(&text, 98) {
            let _ = writeln!(page, "{line}");
        }
        let node = items.unwrap_or(node);
        // The keys of some sections are the user's own.
        if keys::properties(node).next().is_some() {
            page.push_str("\n| key | value | default | meaning |\n|---|---|---|---|\n");
        }
        for (key, child) in keys::properties(node) {
            let value = type_text(&schema, child);
            let default = match child.get("default") {
                Some(Value::Null) | None => "—".to_owned(),
                Some(default) => format!("`{default}`"),
            };
            let text = description(&schema, child);
            let _ = writeln!(page, "| `{key}` | {value} | {default} | {text} |");
        }
    }
    page
}

/// What a value may be.
fn type_text(schema: &Value, node: &Value) -> String {
    let node = keys::resolve(schema, node);
    let names = |list: &Vec<Value>, key: Option<&str>| {
        let name = |value: &Value| match key {
            Some(key) => value.get(key).map(ToString::to_string),
            None => Some(value.to_string()),
        };
        list.iter().filter_map(name).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    };
    if let Some(Value::Array(list)) = node.get("oneOf") {
        return names(list, Some("const"));
    }
    if let Some(Value::Array(list)) = node.get("enum") {
        return names(list, None);
    }
    let bound = |name| node.get(name).and_then(Value::as_f64);
    let kind = match node.get("type") {
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str),
        kind => kind.and_then(Value::as_str),
    };
    match (kind.unwrap_or("value"), bound("minimum"), bound("maximum")) {
        (kind, Some(least), Some(most)) => format!("{kind}, {least} to {most}"),
        (kind, ..) => kind.to_owned(),
    }
}

/// The comment of a field, or else of its type, as one line.
fn description(schema: &Value, node: &Value) -> String {
    let text = |node: &Value| node.get("description").and_then(Value::as_str).map(str::to_owned);
    let text = text(node).or_else(|| text(keys::resolve(schema, node))).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `text` in lines of at most `columns` characters, as far as its words allow.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
