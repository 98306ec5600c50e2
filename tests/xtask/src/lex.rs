//! Rust source split into code and comments, line by line, with the contents of literals blanked.
//!
//! Called by the checks that look for tokens, so that a brace in a string or the word `unsafe` in
//! a sentence does not mislead them. Knows comments (nested too), strings, raw and byte strings,
//! characters against lifetimes; that is all a check of shape needs. Source that does not parse
//! gives some split, never a panic.

/// One line's two halves; columns are kept, what belongs to the other half is spaces.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Code; string and character literals keep their quotes only.
    pub(crate) code: String,
    /// Comment text with its `//`.
    pub(crate) comment: String,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Code,
    LineComment,
    BlockComment(u32),
    Text,
    RawText(usize),
}

/// Splits `source`; the result has one entry per line.
pub(crate) fn split(source: &str) -> Vec<Line> {
    let chars: Vec<char> = source.chars().collect();
    let mut lines = vec![Line::default()];
    let mut state = State::Code;
    let mut at = 0;
    while let Some(&here) = chars.get(at) {
        if here == '\n' {
            lines.push(Line::default());
            if state == State::LineComment {
                state = State::Code;
            }
            at += 1;
            continue;
        }
        let (next, taken, is_code) = step(state, &chars, at);
        for i in at..at + taken {
            let Some(&c) = chars.get(i) else { break };
            if c == '\n' {
                lines.push(Line::default());
                continue;
            }
            let Some(line) = lines.last_mut() else { break };
            let text = matches!(state, State::Text | State::RawText(_));
            let quiet = (text && c != '"') || (taken > 2 && here == '\'' && c != '\'');
            line.code.push(if is_code && !quiet { c } else { ' ' });
            line.comment.push(if is_code { ' ' } else { c });
        }
        state = next;
        at += taken;
    }
    lines
}

/// The state after the characters at `at`, how many it took, and whether they are code.
fn step(state: State, chars: &[char], at: usize) -> (State, usize, bool) {
    let here = chars.get(at).copied().unwrap_or(' ');
    let next = chars.get(at + 1).copied().unwrap_or(' ');
    match state {
        State::LineComment => (state, 1, false),
        State::BlockComment(depth) => match (here, next) {
            ('*', '/') if depth == 1 => (State::Code, 2, false),
            ('*', '/') => (State::BlockComment(depth - 1), 2, false),
            ('/', '*') => (State::BlockComment(depth + 1), 2, false),
            _ => (state, 1, false),
        },
        State::Text => match here {
            '\\' => (state, 2, true),
            '"' => (State::Code, 1, true),
            _ => (state, 1, true),
        },
        State::RawText(hashes) => {
            let ends = here == '"' && (1..=hashes).all(|i| chars.get(at + i) == Some(&'#'));
            (if ends { State::Code } else { state }, if ends { 1 + hashes } else { 1 }, true)
        }
        State::Code => match (here, next) {
            ('/', '/') => (State::LineComment, 2, false),
            ('/', '*') => (State::BlockComment(1), 2, false),
            ('"', _) => (State::Text, 1, true),
            ('r', '"' | '#') if !part_of_word(chars, at) => raw(chars, at),
            ('\'', _) => (state, character(chars, at), true),
            _ => (state, 1, true),
        },
    }
}

fn part_of_word(chars: &[char], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|i| chars.get(i)).copied().unwrap_or(' ');
    // `br"` is a raw byte string, and `b` alone before `r` can be nothing else.
    (before.is_alphanumeric() && before != 'b') || before == '_'
}

fn raw(chars: &[char], at: usize) -> (State, usize, bool) {
    let hashes = chars.iter().skip(at + 1).take_while(|&&c| c == '#').count();
    if chars.get(at + 1 + hashes) == Some(&'"') {
        (State::RawText(hashes), 2 + hashes, true)
    } else {
        (State::Code, 1, true)
    }
}

/// How many characters a character literal at `at` has; 1 for the tick of a lifetime.
fn character(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), Some(_)) => {
            let rest = chars.iter().skip(at + 3).position(|&c| c == '\'').unwrap_or(0);
            rest + 4
        }
        (Some(_), Some('\'')) => 3,
        _ => 1,
    }
}

/// The words and signs of the code, each with its 1-based line.
pub(crate) fn tokens(lines: &[Line]) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let mut rest = line.code.as_str();
        while let Some(first) = rest.chars().next() {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let taken = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else {
                first.len_utf8()
            };
            let (token, after) = rest.split_at(taken);
            if !first.is_whitespace() {
                found.push((index + 1, token));
            }
            rest = after;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_comments_part_ways() {
        let lines = split("let a = \"{ // no\"; // yes {\n/* x /* y */ unsafe */ fn b() {}\n");
        assert_eq!(lines[0].code.trim_end(), "let a = \"       \";");
        assert_eq!(lines[0].comment.trim(), "// yes {");
        assert_eq!(lines[1].code.trim(), "fn b() {}");
        assert!(lines[1].comment.contains("unsafe"));
    }

    #[test]
    fn literals_that_look_like_something_else() {
        for (source, code) in [
            ("r#\"a\"b\"#; x", "r#\"         x"),
            ("'\"'; y", "' '; y"),
            ("'{'; y", "' '; y"),
            ("'\\''; y", "'''; y"),
            ("&'a str", "&'a str"),
            ("b\"\\\"{\" z", "b\"   \" z"),
            ("br\"{\" z", "br\" \" z"),
        ] {
            let lines = split(source);
            let squeeze = |s: &str| s.replace([' ', '#', ';', '"'], "");
            assert_eq!(squeeze(&lines[0].code), squeeze(code), "{source}");
            assert_eq!(lines[0].comment.trim(), "", "{source}");
        }
        assert_eq!(tokens(&split("\"two\nlines {\" end")).last(), Some(&(2, "end")));
    }
}
