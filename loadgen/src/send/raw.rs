//! The files of `--csv` and `--hdr`, written while the run goes on: a row, or a group of
//! histograms, for each interval.
//!
//! `gather.rs` calls [`Raw::write`]. The histograms are lossless: an HdrHistogram log, version 1.3,
//! with V2 compressed histograms of nanoseconds, one tag for each of `intended`, `actual`, `slip`
//! and the phases; those that are empty are left out. A file that cannot be written fails the run.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::SystemTime;

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::gather::{Interval, Row, Spread};
use super::search::LatencyAt;

const COLUMNS: &str = "time_s,seconds,due,begun,acknowledged,errors,rate,intended_p50_us,\
    intended_p99_us,intended_max_us,actual_p50_us,actual_p99_us,actual_max_us,connections,\
    in_flight,busiest_core";
const LEGEND: &str = "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\
    \"Interval_Compressed_Histogram\"";

/// A file, with its name for errors.
struct Output {
    name: String,
    file: BufWriter<File>,
}

impl Output {
    fn create(path: &Path) -> Result<Self, String> {
        let name = path.display().to_string();
        let file = File::create(path).map_err(|e| format!("{name}: {e}"))?;
        Ok(Self { name, file: BufWriter::new(file) })
    }

    /// Who reads along sees all of an interval.
    fn write(&mut self, text: &[u8]) -> Result<(), String> {
        let written = self.file.write_all(text).and_then(|()| self.file.flush());
        written.map_err(|e| format!("{}: {e}", self.name))
    }
}

/// The files that are asked for.
pub(crate) struct Raw {
    csv: Option<Output>,
    hdr: Option<Output>,
    serializer: V2DeflateSerializer,
}

impl Raw {
    /// Makes the files; none when none is asked for.
    ///
    /// # Errors
    /// When one cannot be made.
    pub(crate) fn open(csv: Option<&Path>, hdr: Option<&Path>) -> Result<Option<Self>, String> {
        if csv.is_none() && hdr.is_none() {
            return Ok(None);
        }
        let (csv, hdr) = (csv.map(Output::create), hdr.map(Output::create));
        let serializer = V2DeflateSerializer::new();
        let mut raw = Self { csv: csv.transpose()?, hdr: hdr.transpose()?, serializer };
        if let Some(csv) = &mut raw.csv {
            csv.write(format!("{COLUMNS}\n").as_bytes())?;
        }
        if let Some(hdr) = &mut raw.hdr {
            let head = head(&mut raw.serializer).map_err(|e| format!("{}: {e}", hdr.name))?;
            hdr.write(&head)?;
        }
        Ok(Some(raw))
    }

    /// Writes an interval.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub(crate) fn write(&mut self, interval: &Interval, row: &Row) -> Result<(), String> {
        if let Some(csv) = &mut self.csv {
            csv.write(line(row).as_bytes())?;
        }
        if let Some(hdr) = &mut self.hdr {
            let text = histograms(&mut self.serializer, interval);
            hdr.write(&text.map_err(|e| format!("{}: {e}", hdr.name))?)?;
        }
        Ok(())
    }
}

fn head(serializer: &mut V2DeflateSerializer) -> io::Result<Vec<u8>> {
    let (mut head, now) = (Vec::new(), SystemTime::now());
    IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment("[Values are nanoseconds, of loadgen send]")
        .with_start_time(now)
        .with_base_time(now)
        .begin_log_with(&mut head, serializer)?;
    writeln!(head, "{LEGEND}")?;
    Ok(head)
}

fn histograms(
    serializer: &mut V2DeflateSerializer,
    interval: &Interval,
) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let length = interval.until.saturating_sub(interval.since);
    let log = IntervalLogWriterBuilder::new().begin_log_with(&mut text, serializer);
    let mut log = log.map_err(|e| e.to_string())?;
    for (name, times) in interval.measures.times().filter(|(_, times)| times.count() > 0) {
        log.write_histogram(times.histogram(), interval.since, length, Tag::new(name))
            .map_err(|e| e.to_string())?;
    }
    Ok(text)
}

fn line(row: &Row) -> String {
    let spread = |spread: Option<Spread>| match spread {
        Some(Spread { p50, p99, max }) => {
            let [p50, p99, max] = [p50, p99, max].map(|time| time.as_nanos() as f64 / 1e3);
            format!("{p50:.1},{p99:.1},{max:.1}")
        }
        None => ",,".into(),
    };
    format!(
        "{:.3},{:.3},{},{},{},{},{:.1},{},{},{},{},{:.3}\n",
        row.until.as_secs_f64(),
        row.length.as_secs_f64(),
        row.due,
        row.begun,
        row.acknowledged,
        row.errors,
        row.rate(),
        spread(row.intended),
        spread(row.actual),
        row.open,
        row.busy,
        row.share,
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::Engine as _;
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::send::exchange::{Now, Piece};
    use crate::send::gather::Gatherer;
    use crate::send::live::Live;
    use crate::send::measure::{Measures, Phase};

    #[test]
    fn files_have_every_interval_and_the_histograms_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (csv, hdr) = (folder.path().join("a.csv"), folder.path().join("a.hlog"));
        let mut raw = Raw::open(Some(&csv), Some(&hdr)).unwrap().unwrap();
        let second = Duration::from_secs(1);
        let mut gatherer = Gatherer::new(second, vec![None], Some(&mut raw), &Live::Quiet);
        for index in 0..3 {
            let mut measures = Measures::new();
            (measures.due, measures.begun, measures.acknowledged) = (9, 8, 7);
            (0..7).for_each(|n| measures.actual.record(Duration::from_millis(index * 10 + n)));
            measures.time(Phase::Mail, Duration::from_micros(50));
            let now = vec![Now { host: 0, core: 0, share: 0.25, open: 2, busy: 1 }];
            let since = second * index as u32;
            let until = since + second;
            gatherer.take(Piece { source: 0, index, since, until, now, measures });
        }
        gatherer.finish().unwrap();

        let text = std::fs::read_to_string(&csv).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        let cells = |line: &str| line.split(',').count();
        assert!(lines.iter().all(|line| cells(line) == cells(COLUMNS)), "{text}");
        assert!(lines[1].starts_with("1.000,1.000,9,8,7,0,7.0,,,,"), "{}", lines[1]);
        assert!(lines[1].ends_with(",2,1,0.250"), "{}", lines[1]);

        let log = std::fs::read(&hdr).unwrap();
        assert!(log.starts_with(b"#[Histogram log format version 1.3]\n"));
        let (mut all, mut tags) = (Histogram::<u64>::new(3).unwrap(), Vec::new());
        for entry in IntervalLogIterator::new(&log) {
            let LogEntry::Interval(one) = entry.unwrap() else { continue };
            let tag = one.tag().unwrap().as_str();
            tags.push(tag);
            if tag == "actual" {
                let bytes =
                    base64::engine::general_purpose::STANDARD.decode(one.encoded_histogram());
                all.add(
                    Deserializer::new().deserialize::<u64, _>(&mut &bytes.unwrap()[..]).unwrap(),
                )
                .unwrap();
            }
        }
        assert_eq!(tags, ["actual", "mail"].repeat(3));
        assert_eq!((all.len(), all.max() / 1_000_000), (21, 26));
    }

    #[test]
    fn what_cannot_be_made_is_said() {
        assert!(Raw::open(None, None).unwrap().is_none());
        let nowhere = Path::new("/nonexistent/file.csv");
        let why = Raw::open(Some(nowhere), None).err().unwrap();
        assert!(why.starts_with("/nonexistent/file.csv: "), "{why}");
    }
}
