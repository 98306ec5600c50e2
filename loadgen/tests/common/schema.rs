//! A validator for the few words of JSON Schema that schema.json uses.
//!
//! A word that it does not know is a panic, so that no rule is passed over in silence.

use serde_json::Value;

/// What is wrong with `value`, with where it stands; nothing when it follows the schema.
pub fn check(root: &Value, value: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    follow(root, root, value, "", &mut wrong);
    wrong
}

fn follow(root: &Value, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
    for (word, rule) in schema.as_object().unwrap() {
        match word.as_str() {
            "$schema" | "$defs" | "title" => {}
            "$ref" => {
                let pointer = rule.as_str().unwrap().strip_prefix('#').unwrap();
                follow(root, root.pointer(pointer).unwrap(), value, at, wrong);
            }
            "const" if rule != value => wrong.push(format!("{at}: not {rule}")),
            "enum" if !rule.as_array().unwrap().contains(value) => {
                wrong.push(format!("{at}: none of {rule}"));
            }
            "const" | "enum" => {}
            "type" if !is(rule, value) => wrong.push(format!("{at}: {value} is no {rule}")),
            "type" => {}
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    follow(root, rule, item, &format!("{at}/{index}"), wrong);
                }
            }
            "required" if value.is_object() => {
                let names = rule.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
                let missing = names.filter(|name| value.get(name).is_none());
                wrong.extend(missing.map(|name| format!("{at}/{name} is missing")));
            }
            "required" => {}
            "properties" | "additionalProperties" => {
                for (name, member) in value.as_object().into_iter().flatten() {
                    let at = format!("{at}/{name}");
                    let known = schema.get("properties").and_then(|known| known.get(name));
                    match (word.as_str(), known, rule) {
                        ("properties", Some(known), _) => follow(root, known, member, &at, wrong),
                        ("properties", None, _) | (_, Some(_), _) | (.., Value::Bool(true)) => {}
                        (.., Value::Bool(false)) => wrong.push(format!("{at} is unknown")),
                        (.., rule) => follow(root, rule, member, &at, wrong),
                    }
                }
            }
            other => panic!("{other} is not checked"),
        }
    }
}

fn is(rule: &Value, value: &Value) -> bool {
    match rule.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some(other) => panic!("{other} is no type"),
        None => rule.as_array().unwrap().iter().any(|one| is(one, value)),
    }
}
