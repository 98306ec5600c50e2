//! The messages: made before the run, one template for each size; in the run only the id is
//! written.
//!
//! Each message says who it is in two header fields in front of all others: `X-Loadgen-Id`, which
//! is `<run>-<core>-<number>` in hexadecimal, and `X-Loadgen-Sum`, the SHA-256 of everything behind
//! the header, in hexadecimal. So whoever reads a mailbox can tell what was lost, doubled or
//! changed. Templates take at most [`TEMPLATE_BYTES_MAX`] bytes in all; a corpus has at most
//! [`FILES_MAX`] files.

use std::fs;
use std::path::{Path, PathBuf};

use fsmtp_proto::wire::stuff::Stuffer;

use super::plan::Sizes;
use super::schedule::Random;

/// Memory of all templates together; arbitrary. Each is there twice, with and without its dots.
pub(crate) const TEMPLATE_BYTES_MAX: usize = 512 << 20;
/// Files of a corpus; arbitrary.
pub(crate) const FILES_MAX: usize = 10_000;

const ID_FIELD: &[u8] = b"X-Loadgen-Id: ";
/// `<run>-<core>-<number>`: 8, 2 and 12 digits.
pub(crate) const ID_BYTES: usize = 8 + 1 + 2 + 1 + 12;

/// One message but for its id.
#[derive(Debug)]
pub(crate) struct Template {
    /// As it stands behind DATA, with doubled dots and the end.
    stuffed: Vec<u8>,
    /// As it is.
    raw: Vec<u8>,
    /// The SHA-256 of its body, in hexadecimal.
    pub(crate) sum: String,
    weight: f64,
}

impl Template {
    fn new(rest: &[u8], weight: f64) -> Self {
        let body_at = if rest.starts_with(b"\r\n") {
            2 // It has no header of its own.
        } else {
            rest.windows(4).position(|w| w == b"\r\n\r\n").map_or(rest.len(), |at| at + 4)
        };
        let body = rest.get(body_at..).unwrap_or_default();
        let sum = hex(ring::digest::digest(&ring::digest::SHA256, body).as_ref());
        let mut raw = ID_FIELD.to_vec();
        raw.resize(ID_FIELD.len() + ID_BYTES, b'0');
        raw.extend_from_slice(format!("\r\nX-Loadgen-Sum: {sum}\r\n").as_bytes());
        raw.extend_from_slice(rest);
        let mut stuffed = Vec::with_capacity(raw.len() + 64);
        let mut stuffer = Stuffer::new();
        stuffer.push(&raw, &mut stuffed);
        stuffer.finish(&mut stuffed);
        Self { stuffed, raw, sum, weight }
    }

    /// The bytes as they travel behind DATA, or in a chunk; the id is to be written over.
    pub(crate) fn wire(&self, chunked: bool) -> &[u8] {
        if chunked { &self.raw } else { &self.stuffed }
    }

    /// Octets as RFC 1870 counts them.
    pub(crate) fn octets(&self) -> u64 {
        self.raw.len() as u64
    }
}

/// Writes an id over the place that a template has for it, at the front of `wire`.
pub(crate) fn write_id(wire: &mut [u8], run: u32, core: u32, number: u64) {
    let place = wire.get_mut(ID_FIELD.len()..ID_FIELD.len() + ID_BYTES).unwrap_or_default();
    write_id_at(place, run, core, number);
}

fn write_id_at(place: &mut [u8], run: u32, core: u32, number: u64) {
    let mut from = 0;
    for (value, digits) in [(u64::from(run), 8), (u64::from(core), 2), (number, 12)] {
        let mut rest = value;
        for byte in place.get_mut(from..from + digits).unwrap_or_default().iter_mut().rev() {
            *byte = b"0123456789abcdef"[(rest & 15) as usize];
            rest >>= 4;
        }
        from += digits;
        if let Some(byte) = place.get_mut(from) {
            *byte = b'-';
        }
        from += 1;
    }
}

/// The id as a text, for the ledger.
pub(crate) fn id(run: u32, core: u32, number: u64) -> String {
    let mut place = [b'-'; ID_BYTES];
    write_id_at(&mut place, run, core, number);
    String::from_utf8_lossy(&place).into_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A message of `bytes` octets in all, as far as the fields in front leave room: text in lines,
/// some of which begin with a dot.
fn made(bytes: usize) -> Vec<u8> {
    let mut text = b"Subject: load\r\n\r\n".to_vec();
    let front = ID_FIELD.len() + ID_BYTES + 2 + "X-Loadgen-Sum: ".len() + 64 + 2;
    let wanted = bytes.saturating_sub(front).max(text.len());
    let mut lines = 0;
    while text.len() < wanted {
        let left = wanted - text.len();
        // A line is 2 to 78 octets; never leave a single octet for the next.
        let line = if left > 78 + 2 {
            78
        } else if left > 78 {
            40
        } else {
            left.max(2)
        };
        let first = text.len();
        text.extend(std::iter::repeat_n(b'x', line - 2));
        lines += 1;
        if lines % 50 == 0
            && let Some(byte) = text.get_mut(first)
        {
            *byte = b'.';
        }
        text.extend_from_slice(b"\r\n");
    }
    text
}

/// A file as it travels: lines end at CRLF, the last one too.
fn canonical(file: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(file.len() + 64);
    for line in file.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // A bare CR would be refused as an attack.
        text.extend(line.iter().copied().filter(|byte| *byte != b'\r'));
        text.extend_from_slice(b"\r\n");
    }
    text
}

/// The files of a folder, by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_file() {
            files.push(path);
        }
        if files.len() > FILES_MAX {
            return Err(format!("{}: more than {FILES_MAX} files", folder.display()));
        }
    }
    files.sort();
    Ok(files)
}

/// All templates of a run.
#[derive(Debug)]
pub(crate) struct Templates {
    all: Vec<Template>,
    /// The sums of the weights up to each.
    weights: Vec<f64>,
}

impl Templates {
    /// # Errors
    /// When a file cannot be read, or there is none, or they are too many or too large.
    pub(crate) fn new(sizes: &Sizes, corpus: Option<&Path>) -> Result<Self, String> {
        let mut all = Vec::new();
        let mut bytes_count = 0;
        let mut room = |bytes: usize| {
            bytes_count += 2 * bytes;
            if bytes_count > TEMPLATE_BYTES_MAX {
                return Err(format!("the messages take more than {TEMPLATE_BYTES_MAX} bytes"));
            }
            Ok(())
        };
        match corpus {
            Some(folder) => {
                for path in files(folder)? {
                    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
                    let length = fs::metadata(&path).map_err(failed)?.len();
                    room(usize::try_from(length).unwrap_or(TEMPLATE_BYTES_MAX))?;
                    let file = fs::read(&path).map_err(failed)?;
                    all.push(Template::new(&canonical(&file), 1.0));
                }
            }
            None => {
                // All of them are looked at before the first one is made.
                sizes.steps().try_for_each(|(bytes, _)| room(bytes))?;
                let templates = sizes.steps().map(|(b, weight)| Template::new(&made(b), weight));
                all.extend(templates);
            }
        }
        if all.is_empty() {
            return Err("the corpus has no files".into());
        }
        let mut sum = 0.0;
        let weights = all.iter().map(|template: &Template| {
            sum += template.weight;
            sum
        });
        Ok(Self { weights: weights.collect(), all })
    }

    /// Picks one by its weight.
    pub(crate) fn pick(&self, random: &mut Random) -> usize {
        if self.all.len() == 1 {
            return 0;
        }
        let total = self.weights.last().copied().unwrap_or(0.0);
        let at = random.unit() * total;
        self.weights.partition_point(|sum| *sum <= at).min(self.all.len() - 1)
    }

    /// The template of that number.
    pub(crate) fn get(&self, index: usize) -> &Template {
        &self.all[index.min(self.all.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_octets_and_says_who_it_is() {
        for bytes in (180..400).chain([4_096, 100_000]) {
            let templates = Templates::new(&Sizes(vec![(bytes, bytes, 1.0)]), None).unwrap();
            let template = templates.get(0);
            assert_eq!(template.octets(), bytes as u64, "{bytes}");
            assert!(template.wire(false).ends_with(b"\r\n.\r\n"));
            let mut wire = template.wire(true).to_vec();
            write_id(&mut wire, 0xdead_beef, 3, 0x1234);
            let text = String::from_utf8(wire).unwrap();
            assert!(text.starts_with("X-Loadgen-Id: deadbeef-03-000000001234\r\nX-Loadgen-Sum: "));
            assert_eq!(id(0xdead_beef, 3, 0x1234), "deadbeef-03-000000001234");
            let (header, body) = text.split_once("\r\n\r\n").unwrap();
            let sum = hex(ring::digest::digest(&ring::digest::SHA256, body.as_bytes()).as_ref());
            assert!(header.contains(&format!("X-Loadgen-Sum: {sum}")) && template.sum == sum);
        }
        let large = Templates::new(&Sizes(vec![(100_000, 100_000, 1.0)]), None).unwrap();
        let stuffed = large.get(0).wire(false);
        assert!(stuffed.windows(4).any(|four| four == b"\r\n.."), "dots are exercised");
    }

    #[test]
    fn weights_and_ranges_are_kept() {
        let sizes = Sizes(vec![(1_000, 1_000, 9.0), (2_000, 4_000, 1.0)]);
        let templates = Templates::new(&sizes, None).unwrap();
        let mut random = Random::new(1);
        let picks: Vec<u64> =
            (0..10_000).map(|_| templates.get(templates.pick(&mut random)).octets()).collect();
        let small = picks.iter().filter(|octets| **octets == 1_000).count();
        assert!((8_800..9_200).contains(&small), "{small}");
        assert!(picks.contains(&2_000) && picks.contains(&4_000));
    }

    #[test]
    fn a_corpus_travels_with_right_newlines_and_its_own_header() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Templates::new(&Sizes(Vec::new()), Some(folder.path())).is_err());
        fs::write(folder.path().join("a.eml"), "Subject: a\n\n.dot\r\nbare\rcr").unwrap();
        let templates = Templates::new(&Sizes(Vec::new()), Some(folder.path())).unwrap();
        let wire = String::from_utf8(templates.get(0).wire(false).to_vec()).unwrap();
        assert!(wire.ends_with("\r\nSubject: a\r\n\r\n..dot\r\nbarecr\r\n.\r\n"), "{wire}");
    }

    #[test]
    fn a_file_without_a_header_is_all_body() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.eml"), "\nfirst\n\nlast\n").unwrap();
        let templates = Templates::new(&Sizes(Vec::new()), Some(folder.path())).unwrap();
        let body = ring::digest::digest(&ring::digest::SHA256, b"first\r\n\r\nlast\r\n");
        assert_eq!(templates.get(0).sum, hex(body.as_ref()));
    }

    #[test]
    fn too_much_is_refused_before_it_is_made() {
        let most = TEMPLATE_BYTES_MAX / 2 + 1;
        assert!(Templates::new(&Sizes(vec![(most, most, 1.0)]), None).is_err());
        assert!(Templates::new(&Sizes(vec![(1_000, most, 1.0)]), None).is_err());
    }
}
