//! Curves as SVG, for docs/benchmarks/. The text is set by whoever shows it: no fonts are needed here.

use super::Result;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::{
    ChartBuilder, Circle, IntoDrawingArea, LineSeries, PathElement, RGBColor, SVGBackend,
    SeriesLabelPosition, WHITE,
};
use plotters::style::{Color, IntoFont, TRANSPARENT};
use std::ops::Range;

/// Pixels.
const SIZE: (u32, u32) = (900, 500);
/// Colours that differ for eyes of all kinds (Okabe and Ito).
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];
/// An axis whose ends are further apart than this is logarithmic.
const LOGARITHMIC: f64 = 20.0;

/// What is drawn.
pub struct Plot<'a> {
    /// It names the durability.
    pub title: &'a str,
    /// Labels of the axes, with units.
    pub x: &'a str,
    pub y: &'a str,
    pub lines: Vec<Line>,
}

/// One curve of the legend.
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// An axis: its ends, and where it has a tick.
#[derive(Clone)]
struct Axis {
    logarithmic: bool,
    ends: (f64, f64),
    ticks: Vec<f64>,
}

impl Axis {
    /// An axis with a tick at every value.
    fn of_values(mut values: Vec<f64>) -> Axis {
        values.sort_by(f64::total_cmp);
        values.dedup();
        let (least, most) = ends(&values);
        let logarithmic = least > 0.0 && most / least > LOGARITHMIC;
        // A little room beside the first and the last point.
        let ends = match logarithmic {
            true => (least / 1.2, most * 1.2),
            false => {
                (least - (most - least) * 0.03 - f64::EPSILON, most + (most - least) * 0.03 + f64::EPSILON)
            }
        };
        Axis { logarithmic, ends, ticks: values }
    }

    /// An axis with ticks at round numbers: from 0, or logarithmic.
    fn of_range(values: &[f64]) -> Axis {
        let (least, most) = ends(values);
        if least > 0.0 && most / least > LOGARITHMIC {
            let ticks = round_numbers(least, most);
            return Axis { logarithmic: true, ends: ends(&ticks), ticks };
        }
        let step = round_step(most);
        let ticks: Vec<f64> =
            (0..).map(|number| f64::from(number) * step).take_while(|tick| *tick < most + step).collect();
        Axis { logarithmic: false, ends: ends(&ticks), ticks }
    }

    /// Where a value is, from 0 at the first end to 1 at the last one.
    fn part(&self, value: f64) -> f64 {
        let (first, last) = (self.place(self.ends.0), self.place(self.ends.1));
        (self.place(value) - first) / (last - first)
    }

    fn place(&self, value: f64) -> f64 {
        if self.logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        from + (self.part(*value) * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.ends.0..self.ends.1
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        written(*value)
    }
}

fn ends(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (least, most)
}

/// 1, 2, 5, 10, … around a range.
fn round_numbers(least: f64, most: f64) -> Vec<f64> {
    let powers = least.log10().floor() as i32..=most.log10().ceil() as i32;
    let all: Vec<f64> =
        powers.flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power))).collect();
    let first = all.iter().rposition(|number| *number <= least).unwrap_or(0);
    let last = all.iter().position(|number| *number >= most).unwrap_or(all.len() - 1);
    all[first..=last].to_vec()
}

/// A round step that gives four to ten of them up to `most`.
fn round_step(most: f64) -> f64 {
    let power = 10f64.powf((most.max(f64::MIN_POSITIVE) / 4.0).log10().floor());
    [5.0, 2.0].map(|digit| digit * power).into_iter().find(|step| step * 4.0 <= most).unwrap_or(power)
}

/// 20000 as 20,000; 0.50 as 0.5.
fn written(number: f64) -> String {
    if number < 10.0 {
        let text = format!("{number:.2}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let digits = format!("{number:.0}");
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|some| std::str::from_utf8(some).ok()).collect();
    groups.join(",")
}

/// Where a legend hides the fewest points, and the fewest middles between them.
fn free_corner(x: &Axis, y: &Axis, lines: &[Line]) -> SeriesLabelPosition {
    let corners = [
        (SeriesLabelPosition::LowerRight, (1.0, 0.0)),
        (SeriesLabelPosition::UpperRight, (1.0, 1.0)),
        (SeriesLabelPosition::UpperLeft, (0.0, 1.0)),
        (SeriesLabelPosition::LowerLeft, (0.0, 0.0)),
        (SeriesLabelPosition::MiddleRight, (1.0, 0.5)),
    ];
    let places = lines.iter().flat_map(|line| {
        let places: Vec<(f64, f64)> =
            line.points.iter().map(|point| (x.part(point.0), y.part(point.1))).collect();
        let middles: Vec<(f64, f64)> =
            places.windows(2).map(|two| ((two[0].0 + two[1].0) / 2.0, (two[0].1 + two[1].1) / 2.0)).collect();
        places.into_iter().chain(middles)
    });
    let places: Vec<(f64, f64)> = places.collect();
    let hidden = |corner: (f64, f64)| {
        let hides =
            |place: &&(f64, f64)| (place.0 - corner.0).abs() < 0.2 && (place.1 - corner.1).abs() < 0.25;
        places.iter().filter(hides).count()
    };
    let best = corners.into_iter().min_by_key(|(_, corner)| hidden(*corner));
    best.map_or(SeriesLabelPosition::LowerRight, |(position, _)| position)
}

/// The SVG. Points that are not finite are left out. Errors if no point is left.
pub fn draw(plot: &Plot) -> Result<String> {
    let finite = |point: &&(f64, f64)| point.0.is_finite() && point.1.is_finite();
    let all: Vec<(f64, f64)> =
        plot.lines.iter().flat_map(|line| line.points.iter().filter(finite)).copied().collect();
    if all.is_empty() {
        return Err(format!("there is nothing to draw for {:?}", plot.title).into());
    }
    let x = Axis::of_values(all.iter().map(|point| point.0).collect());
    let y = Axis::of_range(&all.iter().map(|point| point.1).collect::<Vec<_>>());
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let corner = free_corner(&x, &y, &plot.lines);
        let mut chart = ChartBuilder::on(&area)
            .caption(plot.title, ("sans-serif", 22).into_font())
            .margin(12)
            .x_label_area_size(50)
            .y_label_area_size(84)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(plot.x)
            .y_desc(plot.y)
            .label_style(("sans-serif", 17))
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (line, colour) in plot.lines.iter().zip(COLOURS.iter().cycle()) {
            let points: Vec<(f64, f64)> = line.points.iter().filter(finite).copied().collect();
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
                .label(line.name.as_str())
                .legend(|(left, middle)| {
                    PathElement::new([(left, middle), (left + 16, middle)], colour.stroke_width(2))
                });
            chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, colour.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(corner)
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(160, 160, 160))
            .label_font(("sans-serif", 17))
            .draw()?;
        area.present()?;
    }
    Ok(svg)
}
