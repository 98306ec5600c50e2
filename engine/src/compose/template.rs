//! Templates: a message's subject and texts with places for values.
//!
//! Called by whatever sends mail for others, with a template and values that may both be hostile.
//! The language is a part of Jinja: `{{ customer.name }}` with filters, `if` and `for`, comments.
//! What else Jinja has, operators that build larger values above all, is refused before anything
//! runs: a list that was doubled 40 times is shown to its end before the engine looks at the fuel.
//! In the HTML, values are escaped. A value that is missing is an error where it would be shown,
//! and false in an `if`.
//!
//! Limits: [`TEMPLATE_BYTES_MAX`] of a template, [`FUEL_MAX`] of each rendering, which bounds the
//! time, the memory and the result. At worst that is some seconds: it is no work for a shard.
//! Errors name the part, the line and the expression ([`TemplateError`]).

use core::fmt;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, filters, tests as jinja};

/// The longest subject, text or HTML of a template.
pub const TEMPLATE_BYTES_MAX: usize = 256 * 1024;
/// What one rendering may use: 1 for a step, 1 for 64 bytes that it makes on the way or in the end.
/// An arbitrary number far above what a letter needs; a result has at most 6.4 MB.
pub const FUEL_MAX: u64 = 100_000;

/// The only words that may begin a `{% %}`.
const STATEMENTS: [&str; 6] = ["if", "elif", "else", "endif", "for", "endfor"];
/// The only filters that take something in brackets.
const WITH_ARGUMENTS: [&str; 3] = ["default", "d", "round"];

/// Texts with places for values.
#[derive(Clone, Copy, Debug, Default)]
pub struct Template<'a> {
    /// The subject.
    pub subject: &'a str,
    /// The plain text.
    pub text: Option<&'a str>,
    /// The HTML; values in it are escaped.
    pub html: Option<&'a str>,
}

/// A template with its values in place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rendered {
    /// The subject, on one line.
    pub subject: String,
    /// The plain text.
    pub text: Option<String>,
    /// The HTML.
    pub html: Option<String>,
}

/// Why a template gave no text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TemplateError {
    /// `subject`, `text` or `html`.
    pub part: &'static str,
    /// Counted from 1; 0 when no line is to blame.
    pub line: usize,
    /// The variable or expression, as the template has it.
    pub expression: Option<String>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.part)?;
        if self.line > 0 {
            write!(f, ", line {}", self.line)?;
        }
        if let Some(expression) = &self.expression {
            write!(f, ": `{expression}`")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl core::error::Error for TemplateError {}

impl Template<'_> {
    /// Puts the values in place.
    ///
    /// # Errors
    /// [`TemplateError`] for what is not of the language, a value that is missing, or a limit.
    pub fn render(&self, values: &serde_json::Value) -> Result<Rendered, TemplateError> {
        let env = environment();
        let optional = |part, source: Option<&str>| {
            source.map(|source| render(&env, part, source, values)).transpose()
        };
        Ok(Rendered {
            subject: render(&env, "subject", self.subject, values)?.trim().to_owned(),
            text: optional("text", self.text)?,
            html: optional("html", self.html)?,
        })
    }
}

/// No function, no loader, and the filters and tests that make nothing longer.
fn environment() -> Environment<'static> {
    let mut env = Environment::empty();
    env.set_auto_escape_callback(|name| match name {
        "html" => AutoEscape::Html,
        _ => AutoEscape::None,
    });
    env.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    env.set_fuel(Some(FUEL_MAX));
    env.set_debug(true); // the place of an error, not only its line
    env.add_filter("capitalize", filters::capitalize);
    env.add_filter("d", filters::default);
    env.add_filter("default", filters::default);
    env.add_filter("first", filters::first);
    env.add_filter("int", filters::int);
    env.add_filter("items", filters::items);
    env.add_filter("last", filters::last);
    env.add_filter("length", filters::length);
    env.add_filter("lower", filters::lower);
    env.add_filter("round", filters::round);
    env.add_filter("safe", filters::safe);
    env.add_filter("title", filters::title);
    env.add_filter("trim", filters::trim);
    env.add_filter("upper", filters::upper);
    env.add_test("defined", jinja::is_defined);
    env.add_test("none", jinja::is_none);
    env.add_test("undefined", jinja::is_undefined);
    env
}

fn render(
    env: &Environment<'_>,
    part: &'static str,
    source: &str,
    values: &serde_json::Value,
) -> Result<String, TemplateError> {
    let error = |line, what| TemplateError { part, line, expression: None, what };
    if source.len() > TEMPLATE_BYTES_MAX {
        return Err(error(0, format!("is longer than {TEMPLATE_BYTES_MAX} bytes")));
    }
    if let Err((at, what)) = check(source) {
        let line = source.get(..at).unwrap_or_default().matches('\n').count() + 1;
        return Err(error(line, what));
    }
    let template = env.template_from_named_str(part, source);
    template.and_then(|t| t.render(Serde(values))).map_err(|e| of_engine(part, source, &e))
}

fn of_engine(part: &'static str, source: &str, error: &minijinja::Error) -> TemplateError {
    let place = error.range().and_then(|range| source.get(range));
    let what = match (error.kind(), error.detail()) {
        (ErrorKind::UndefinedError, _) => "there is no such value".to_owned(),
        (ErrorKind::OutOfFuel, _) => "takes too much time or memory".to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    TemplateError {
        part,
        line: error.line().unwrap_or(0),
        expression: place.map(str::trim).filter(|p| !p.is_empty()).map(str::to_owned),
        what,
    }
}

/// Whether a template keeps to the part of the language that only chooses and repeats. Says where
/// it does not, and why. It lists what is allowed, so what it does not know is refused.
fn check(source: &str) -> Result<(), (usize, String)> {
    let mut at = 0;
    while let Some(found) = source.get(at..).and_then(|rest| rest.find('{')) {
        at += found;
        let rest = source.get(at..).unwrap_or_default();
        at += match rest.get(1..2) {
            Some("#") => comment_bytes(rest),
            Some("%") => check_tag(rest, "%}").map_err(|(inside, what)| (at + inside, what))?,
            Some("{") => check_tag(rest, "}}").map_err(|(inside, what)| (at + inside, what))?,
            _ => 1,
        };
    }
    Ok(())
}

/// Checks one `{{ }}` or `{% %}` at the front, and returns its length.
fn check_tag(text: &str, end: &str) -> Result<usize, (usize, String)> {
    let mut is_first = true;
    let mut word = "";
    let mut behind_pipe = false;
    let mut open_count = 0;
    let mut at = 2;
    while let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) {
        let rest = text.get(at..).unwrap_or_default();
        // In brackets the engine sees no end, so none may stand there.
        if open_count == 0 && rest.starts_with(end) {
            return Ok(at + end.len());
        }
        let refuse = |what: &str| Err((at, format!("{what} is not a part of this language")));
        match c {
            '"' | '\'' => at += string_bytes(rest, c),
            c if c.is_ascii_alphanumeric() || c == '_' => {
                let bytes = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_');
                let bytes = bytes.count();
                word = rest.get(..bytes).unwrap_or_default();
                if is_first && end == "%}" && !STATEMENTS.contains(&word) {
                    return refuse(&format!("`{word}`"));
                }
                is_first = false;
                at += bytes;
                continue; // the word and the pipe before it count until the next sign
            }
            '(' if behind_pipe && WITH_ARGUMENTS.contains(&word) => {
                open_count += 1;
                at += 1;
            }
            ')' if open_count > 0 => {
                open_count -= 1;
                at += 1;
            }
            '|' | '.' | ',' | '=' | '!' | '<' | '>' | '-' => at += 1,
            c if c.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            c => return refuse(&format!("`{c}`")),
        }
        behind_pipe = c == '|';
    }
    Err((0, "is not closed".to_owned()))
}

/// The length of a comment at the front.
fn comment_bytes(text: &str) -> usize {
    let begin = if matches!(text.get(2..3), Some("-" | "+")) { 3 } else { 2 };
    let inside = text.get(begin..).unwrap_or_default();
    inside.find("#}").map_or(text.len(), |end| begin + end + 2)
}

/// The length of a string literal at the front, with its quotes.
fn string_bytes(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(source: &str, values: serde_json::Value) -> Result<String, String> {
        let template = Template { subject: "s", text: Some(source), html: None };
        template.render(&values).map(|r| r.text.unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn values_are_put_in_place() {
        let values = json!({
            "name": "Zoë",
            "items": [{"what": "tea", "n": 2}, {"what": "milk", "n": 1}],
            "empty": "",
        });
        for (source, result) in [
            ("Hello {{ name }}!", "Hello Zoë!"),
            ("{{ name|upper }} {{ missing|default('friend') }}", "ZOË friend"),
            ("{% if empty %}a{% elif missing %}b{% else %}c{% endif %}", "c"),
            (
                "{% for i in items %}{{ loop.index }}. {{ i.what }}: {{ i.n }}\n{% endfor %}",
                "1. tea: 2\n2. milk: 1\n",
            ),
            ("{%- if name == \"Zoë\" and items|length > 1 -%} yes {%- endif -%}", "yes"),
            ("{# a comment #}{ } {{ '}} {%' }}{{ \"\\\"\" }}", "{ } }} {%\""),
            ("{{ items.0.what }}{% if x is defined %}x{% endif %}", "tea"),
        ] {
            assert_eq!(text(source, values.clone()).as_deref(), Ok(result), "{source}");
        }
    }

    #[test]
    fn html_is_escaped_and_the_other_parts_are_not() {
        let template = Template {
            subject: "{{ x }}\n",
            text: Some("{{ x }}"),
            html: Some("<p title=\"{{ x }}\">{{ x }}{{ x|safe }}</p>"),
        };
        let rendered = template.render(&json!({"x": "<a href='x'>\"&"})).unwrap();
        assert_eq!(rendered.subject, "<a href='x'>\"&");
        assert_eq!(rendered.text.unwrap(), "<a href='x'>\"&");
        let html = rendered.html.unwrap();
        assert_eq!(html.matches("<a").count(), 1, "{html}");
        assert!(
            html.starts_with("<p title=\"&lt;a href=&#x27;x&#x27;&gt;&quot;&amp;\">"),
            "{html}"
        );
    }

    #[test]
    fn errors_name_the_line_and_the_variable() {
        for (source, error) in [
            ("a\n{{ custmer.name }}", "text, line 2: `custmer.name`: there is no such value"),
            ("a\n\n{{ name }}", "text, line 3: `name`: there is no such value"),
            ("{% for x in many %}{% endfor %}", "there is no such value"),
            ("{% if x %}", "text, line 1"),
            ("a\n{{ x|unknown }}", "text, line 2"),
            ("\n{{ x", "text, line 2: is not closed"),
        ] {
            let found = text(source, json!({})).unwrap_err();
            assert!(found.contains(error), "{source}: {found}");
        }
    }

    #[test]
    fn what_could_grow_without_end_is_refused() {
        for source in [
            "{% set x = 1 %}",
            "{%- set x %}{% endset %}",
            "{% with x = 1 %}{% endwith %}",
            "{% macro x() %}{% endmacro %}",
            "{% include 'x' %}",
            "{% filter upper %}{% endfilter %}",
            "{% raw %}{{ a * 9 }}{% endraw %}",
            "{%+ if a %}{% endif %}",
            "{{ a ~ a }}",
            "{{ a + a }}",
            "{{ a * 9 }}",
            "{{ a/a }}",
            "{{ [a, a] }}",
            "{{ {'a': 1} }}",
            "{{ a[0] }}",
            "{{ range(9) }}",
            "{{ loop(x) }}",
            "{{ (a) }}",
            "{{ a.upper() }}",
            "{{ x|default.y(1) }}",
            "{{ default (x) }}",
            "{{ a) }}",
            "{{ a|default(a }} b ~ b) }}",
            "{#} {{ \"#} {{ a * 9 }}{# \" }}",
            "{#- #}{{ a * 9 }}",
        ] {
            let found = text(source, json!({"a": "a"})).unwrap_err();
            assert!(found.contains("is not a part of this language"), "{source}: {found}");
        }
        assert!(text("{{ a|replace('a', 'b') }}", json!({"a": "a"})).is_err());
    }

    #[test]
    fn each_limit_is_reached() {
        let long = "x".repeat(TEMPLATE_BYTES_MAX + 1);
        assert!(text(&long, json!({})).unwrap_err().contains("is longer than"));
        assert_eq!(text(&long[1..], json!({})).as_deref(), Ok(&long[1..]));

        let values = json!({"m": vec![1; 1000], "big": "x".repeat(64 * 1024)});
        for source in [
            "{% for a in m %}{% for b in m %}{% endfor %}{% endfor %}",
            "{% for a in m %}{{ big }}{% endfor %}",
            "{% for a in m %}{% if big|upper == big %}{% endif %}{% endfor %}",
        ] {
            let found = text(source, values.clone()).unwrap_err();
            assert!(found.contains("too much time or memory"), "{source}: {found}");
        }
    }
}
