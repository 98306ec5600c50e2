//! Walks a parsed file along the schema: unknown keys, values out of bounds, and the line of each.
//!
//! Called by `Config::load`. Bounded by the file, which is small. Fails by adding a problem with
//! its line; it does not stop at the first.

use super::Problem;
use serde_json::Value;
use toml::de::{DeTable, DeValue};

/// The schema of the file, as `config schema` prints it.
pub(super) fn schema() -> Value {
    schemars::schema_for!(super::file::File).to_value()
}

/// Follows `$ref`, and takes the part of an optional type that is not null.
pub(super) fn resolve<'v>(schema: &'v Value, node: &'v Value) -> &'v Value {
    let reference = node.get("$ref").and_then(Value::as_str);
    let target = reference.and_then(|path| schema.pointer(path.strip_prefix('#')?));
    target.map_or(node, |target| resolve(schema, target))
}

/// The keys of a section.
pub(super) fn properties(node: &Value) -> impl Iterator<Item = (&str, &Value)> {
    node.get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value))
}

/// The line, from 1, that byte `at` of `text` is on.
pub(super) fn line(text: &str, at: usize) -> usize {
    1 + text.as_bytes().iter().take(at).filter(|&&byte| byte == b'\n').count()
}

/// The line on which `path` is set, if the file sets it; an element of a list is named by its
/// index.
pub(super) fn line_of(text: &str, table: &DeTable<'_>, path: &[&str]) -> Option<usize> {
    let (first, rest) = path.split_first()?;
    let (key, value) = table.iter().find(|(key, _)| key.get_ref().as_ref() == *first)?;
    let own = line(text, key.span().start);
    match (rest, value.get_ref()) {
        ([], _) => Some(own),
        (rest, DeValue::Table(table)) => line_of(text, table, rest),
        ([index, rest @ ..], DeValue::Array(array)) => {
            let element = array.get(index.parse::<usize>().ok()?)?;
            let at = line(text, element.span().start);
            match element.get_ref() {
                DeValue::Table(table) if !rest.is_empty() => line_of(text, table, rest),
                _ => Some(at),
            }
        }
        _ => None,
    }
}

/// Adds a problem for each key of `table` that is none of ours.
pub(super) fn unknown(text: &str, table: &DeTable<'_>, problems: &mut Vec<Problem>) {
    let schema = schema();
    walk(text, table, &schema, &schema, "", problems);
}

fn walk(
    text: &str,
    table: &DeTable<'_>,
    schema: &Value,
    node: &Value,
    section: &str,
    problems: &mut Vec<Problem>,
) {
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        // A section whose keys are the user's own.
        if node.get("additionalProperties").is_some_and(Value::is_object) {
            continue;
        }
        let Some((_, child)) = properties(node).find(|(known, _)| *known == name) else {
            problems.push(Problem {
                line: Some(line(text, key.span().start)),
                text: unknown_text(schema, node, section, name),
            });
            continue;
        };
        let child = resolve(schema, child);
        match value.get_ref() {
            DeValue::Table(table) => walk(text, table, schema, child, name, problems),
            DeValue::Array(array) => {
                let items = child.get("items").map_or(child, |items| resolve(schema, items));
                for element in array {
                    if let DeValue::Table(table) = element.get_ref() {
                        walk(text, table, schema, items, name, problems);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Says what is unknown, and the name that comes nearest.
fn unknown_text(schema: &Value, node: &Value, section: &str, name: &str) -> String {
    let place = if section.is_empty() { String::new() } else { format!(" in [{section}]") };
    let what = format!("unknown key `{name}`{place}");
    let siblings: Vec<&str> = properties(node).map(|(known, _)| known).collect();
    if let Some((near, _)) = nearest(name, siblings.iter().copied()) {
        return format!("{what}: did you mean `{near}`?");
    }
    // Perhaps the right name in the wrong section.
    let elsewhere = properties(schema).filter_map(|(other, child)| {
        let child = resolve(schema, child);
        let (child, place) = match child.get("items") {
            Some(items) => (resolve(schema, items), format!("[[{other}]]")),
            None => (child, format!("[{other}]")),
        };
        let (near, likeness) = nearest(name, properties(child).map(|(known, _)| known))?;
        Some((near, place, likeness))
    });
    if let Some((near, place, _)) = elsewhere.max_by(|a, b| a.2.total_cmp(&b.2)) {
        return format!("{what}: did you mean `{near}` in {place}?");
    }
    format!("{what}: known are {}", siblings.join(", "))
}

/// The candidate that `name` was meant to be, and how like it is, if any comes near enough.
fn nearest<'c>(name: &str, candidates: impl Iterator<Item = &'c str>) -> Option<(&'c str, f64)> {
    let name = name.to_ascii_lowercase();
    let likeness = |known: &str| {
        // The first finds letters that are wrong, missing or behind the end; the second finds
        // words in another order. The bounds are arbitrary: beyond them it is another word.
        let letters = strsim::jaro_winkler(&name, known);
        let words = strsim::sorensen_dice(&name, known);
        (letters >= 0.8 || words >= 0.65).then_some(letters.max(words))
    };
    let near = candidates.filter_map(|known| Some((known, likeness(known)?)));
    near.max_by(|a, b| a.1.total_cmp(&b.1))
}

/// Adds a problem for each number in `value` that the schema does not allow.
pub(super) fn bounds(
    schema: &Value,
    node: &Value,
    value: &Value,
    path: &mut Vec<String>,
    add: &mut dyn FnMut(&[String], String),
) {
    let node = resolve(schema, node);
    match value {
        Value::Object(fields) => {
            for (key, child) in properties(node) {
                if let Some(value) = fields.get(key) {
                    path.push(key.to_owned());
                    bounds(schema, child, value, path, add);
                    path.pop();
                }
            }
        }
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                path.push(index.to_string());
                bounds(schema, node.get("items").unwrap_or(&Value::Null), element, path, add);
                path.pop();
            }
        }
        Value::Number(number) => {
            let bound = |name: &str| node.get(name).and_then(Value::as_f64);
            // Every bound is far below 2^53, so comparing as floating point is exact.
            let value = number.as_f64().unwrap_or(f64::MAX);
            if bound("minimum").is_some_and(|least| value < least) {
                let least = bound("minimum").unwrap_or_default();
                add(path, format!("{number} is too small: the least is {least}"));
            }
            if bound("maximum").is_some_and(|most| value > most) {
                let most = bound("maximum").unwrap_or_default();
                add(path, format!("{number} is too large: the most is {most}"));
            }
        }
        _ => {}
    }
}
