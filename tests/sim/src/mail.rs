//! Bodies that are hard on a server: dots, long lines, empty lines, many blocks, raw bytes.

use fsmtp_rt::sim::Random;

/// Text of CRLF-ended lines, at most about `bytes_max` bytes.
pub(crate) fn text(random: &mut Random, bytes_max: u64) -> Vec<u8> {
    let target = size(random, bytes_max);
    let mut text = Vec::with_capacity(target + 1000);
    while text.len() < target {
        let length = match random.below(8) {
            0 => 0,
            1 => 1,
            // RFC 5321 §4.5.3.1.6: the longest line of text.
            2 if target > 5000 => 998,
            _ => random.below(70) as usize,
        };
        match random.below(4) {
            0 => text.push(b'.'),
            1 if random.coin() => text.extend_from_slice(b".."),
            _ => {}
        }
        let letter = b'a' + random.below(26) as u8;
        text.resize(text.len() + length, letter);
        text.extend_from_slice(b"\r\n");
    }
    text
}

/// Any bytes at all behind an empty header, for BDAT with BINARYMIME.
pub(crate) fn binary(random: &mut Random, bytes_max: u64) -> Vec<u8> {
    let mut body = vec![0; size(random, bytes_max)];
    random.fill(&mut body);
    // More of what is special elsewhere.
    for _ in 0..body.len() / 8 {
        let place = random.index(body.len());
        body[place] = *random.pick(b"\r\n.\0");
    }
    body.truncate(body.len().saturating_sub(2));
    [&b"\r\n"[..], &body].concat()
}

fn size(random: &mut Random, bytes_max: u64) -> usize {
    let most = match random.below(40) {
        0 => 200_000,
        1..=4 => 20_000,
        5..=19 => 2_000,
        _ => 200,
    };
    random.below(bytes_max.min(most)) as usize
}

/// The body as DATA carries it: RFC 5321 §4.5.2, with the end of data.
pub(crate) fn stuffed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 64);
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

/// Whether a CR or an LF stands alone.
pub(crate) fn has_bare_newline(body: &[u8]) -> bool {
    let mut before = 0;
    let mut after = body.iter().skip(1).chain(&[0]);
    body.iter().any(|byte| {
        let next = after.next() == Some(&b'\n');
        let bare = (*byte == b'\r' && !next) || (*byte == b'\n' && before != b'\r');
        before = *byte;
        bare
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_newlines_are_seen() {
        for (text, bare) in
            [("", false), ("a\r\nb", false), ("\r", true), ("\n", true), ("a\r\n\n", true)]
        {
            assert_eq!(has_bare_newline(text.as_bytes()), bare, "{text:?}");
        }
    }

    #[test]
    fn stuffing_is_undone_by_removing_one_dot_per_line() {
        let mut random = Random::new(1);
        for _ in 0..50 {
            let body = text(&mut random, 5000);
            let wire = stuffed(&body);
            let inner = wire.strip_suffix(b".\r\n").unwrap();
            let mut back = Vec::new();
            for line in inner.split_inclusive(|byte| *byte == b'\n') {
                assert_ne!(line, b".\r\n", "the end of data is within");
                back.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
            }
            assert_eq!(back, body);
        }
    }
}
