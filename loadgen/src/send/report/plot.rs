//! Lines over an axis, as SVG that stands inside a page.
//!
//! `html.rs` calls it. The page's style sheet has the colours, so that they fit a light and a dark
//! page: the strokes are `s0`, `s1`, `s2`. A plot has at most some thousand points; who has more
//! gives fewer. Everything that came from outside is [`escaped`].

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 240.0;
/// Room for the numbers of the axes.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 26.0;

/// Text in a page: no markup, and nothing that no text may hold.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() => safe.push(char::REPLACEMENT_CHARACTER),
            c => safe.push(c),
        }
    }
    safe
}

/// How values lie on an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scale {
    /// From 0.
    Linear,
    /// By powers of ten; there are only values above 0.
    Log,
}

/// A line; where it has no value it is broken.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<Option<(f64, f64)>>,
}

/// A plot.
#[derive(Debug)]
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) lines: Vec<Line>,
    pub(crate) scales: (Scale, Scale),
    /// What stands at the axes: values and their texts; horizontal ones may be given.
    pub(crate) x_ticks: Option<Vec<(f64, String)>>,
    pub(crate) x_text: fn(f64) -> String,
    pub(crate) y_text: fn(f64) -> String,
}

/// From where to where an axis goes.
#[derive(Debug, Clone, Copy)]
struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Axis {
    fn new(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        match scale {
            Scale::Linear => {
                let high = if high > 0.0 { high } else { 1.0 };
                Self { scale, low: 0.0, high }
            }
            Scale::Log => {
                let low = if low > 0.0 && low.is_finite() { low } else { 1.0 };
                Self { scale, low, high: if high > low { high } else { low * 10.0 } }
            }
        }
    }

    /// 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => value / self.high,
            Scale::Log => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
        };
        share.clamp(0.0, 1.0)
    }

    /// Round values within it, not many.
    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let rough = self.high / 4.0;
                let power = 10f64.powf(rough.log10().floor());
                // Divided below 1, where a product would end in digits that no label shall have.
                let exact = |times: f64| {
                    if power < 1.0 { times / (1.0 / power).round() } else { times * power }
                };
                let mut steps = [1.0, 2.0, 5.0, 10.0].into_iter();
                let step = steps.find(|step| exact(*step) >= rough).unwrap_or(10.0);
                (0..=8)
                    .map(|n| exact(f64::from(n) * step))
                    .take_while(|v| *v <= self.high)
                    .collect()
            }
            Scale::Log => {
                let (first, last) = (self.low.log10().floor() as i32, self.high.log10() as i32);
                let steps: &[f64] = if last - first > 2 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let all = (first..=last).flat_map(|p| steps.iter().map(move |s| s * 10f64.powi(p)));
                all.filter(|value| (self.low..=self.high).contains(value)).collect()
            }
        }
    }
}

impl Plot<'_> {
    /// The figure, with its title and what its lines are.
    pub(crate) fn figure(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| line.points.iter().flatten());
        let x = Axis::new(self.scales.0, points().map(|point| point.0));
        let y = Axis::new(self.scales.1, points().map(|point| point.1));
        let across = |value| LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
        let up = |value| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);
        let title = escaped(self.title);
        let mut text = format!("<figure><figcaption>{title}");
        for (index, line) in self.lines.iter().enumerate() {
            let _ = write!(text, " <span class=\"s{index}\">{}</span>", escaped(line.name));
        }
        let _ = write!(
            text,
            "</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{title}\">\n"
        );
        for value in y.ticks() {
            let (at, label) = (up(value), escaped(&(self.y_text)(value)));
            let (end, left, low) = (WIDTH - RIGHT, LEFT - 6.0, at + 4.0);
            let _ = writeln!(
                text,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text class=\"y\" x=\"{left}\" y=\"{low:.1}\">{label}</text>"
            );
        }
        let named = |value| (value, (self.x_text)(value));
        let ticks = self.x_ticks.clone();
        for (value, label) in ticks.unwrap_or_else(|| x.ticks().into_iter().map(named).collect()) {
            let (at, low, label) = (across(value), HEIGHT - 8.0, escaped(&label));
            let _ = writeln!(text, "<text class=\"x\" x=\"{at:.1}\" y=\"{low}\">{label}</text>");
        }
        for (index, line) in self.lines.iter().enumerate() {
            let _ = write!(text, "<path class=\"s{index}\" d=\"");
            let mut pen = 'M';
            for point in &line.points {
                let Some((x, y)) = *point else {
                    pen = 'M';
                    continue;
                };
                let _ = write!(text, "{pen}{:.1} {:.1}", across(x), up(y));
                pen = 'L';
            }
            text.push_str("\"/>\n");
        }
        text.push_str("</svg></figure>\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_numbers_and_not_many() {
        for (scale, values, ticks) in [
            (Scale::Linear, vec![3.0, 970.0], vec![0.0, 500.0]),
            (Scale::Linear, vec![1.0], vec![0.0, 0.5, 1.0]),
            (Scale::Linear, vec![0.75], vec![0.0, 0.2, 0.4, 0.6]),
            (Scale::Linear, vec![0.0039], vec![0.0, 0.001, 0.002, 0.003]),
            (Scale::Linear, vec![], vec![0.0, 0.5, 1.0]),
            (Scale::Log, vec![15.0, 300.0], vec![20.0, 50.0, 100.0, 200.0]),
            (Scale::Log, vec![0.5, 2e4], vec![1.0, 10.0, 100.0, 1e3, 1e4]),
            (Scale::Log, vec![], vec![1.0, 2.0, 5.0, 10.0]),
        ] {
            let axis = Axis::new(scale, values.iter().copied());
            assert_eq!(axis.ticks(), ticks, "{values:?}");
        }
    }

    #[test]
    fn values_are_placed_between_the_ends_and_nothing_is_outside() {
        let line = Axis::new(Scale::Linear, [50.0, 100.0].into_iter());
        assert_eq!([0.0, 25.0, 100.0, 200.0].map(|v| line.place(v)), [0.0, 0.25, 1.0, 1.0]);
        let log = Axis::new(Scale::Log, [1.0, 100.0].into_iter());
        assert_eq!([0.0, 1.0, 10.0, 100.0].map(|v| log.place(v)), [0.0, 0.0, 0.5, 1.0]);
    }

    #[test]
    fn a_line_is_broken_where_it_has_no_value() {
        let line = Line {
            name: "a<b",
            points: vec![Some((0.0, 1.0)), Some((1.0, 1.0)), None, Some((2.0, f64::NAN))],
        };
        let plot = Plot {
            title: "t&t",
            lines: vec![line],
            scales: (Scale::Linear, Scale::Linear),
            x_ticks: None,
            x_text: |x| x.to_string(),
            y_text: |y| y.to_string(),
        };
        let text = plot.figure();
        assert_eq!(text.matches('M').count(), 2, "{text}");
        assert!(text.contains("a&lt;b") && text.contains("t&amp;t"));
    }

    #[test]
    fn text_is_no_markup() {
        assert_eq!(escaped("<a b='\"&\u{1b}\n"), "&lt;a b=&#39;&quot;&amp;\u{fffd}\u{fffd}");
    }
}
