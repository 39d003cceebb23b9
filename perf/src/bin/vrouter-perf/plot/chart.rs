//! A bar chart as SVG: medians, with the range of all rounds as a line.
//!
//! Text is left to whoever shows the file; nothing depends on the fonts of this machine.

use perf::figures::Figures;
use plotters::{
    coord::Shift,
    drawing::DrawingAreaErrorKind,
    prelude::{
        DrawingArea, IntoDrawingArea, IntoTextStyle, PathElement, RGBColor, Rectangle, SVGBackend,
        Text, WHITE,
    },
    style::{
        Color,
        text_anchor::{HPos, Pos, VPos},
    },
};

/// Pixels from the left edge to the bars, of the longest bar, and beyond it for its number.
const LABELS_WIDTH: i32 = 190;
const BARS_WIDTH: i32 = 460;
const NUMBERS_WIDTH: i32 = 150;
/// Pixels from one bar to the next, of a bar, and of what is above a group's first.
const ROW_HEIGHT: i32 = 22;
const BAR_HEIGHT: i32 = 14;
const HEAD_HEIGHT: i32 = 26;
/// Pixels of the title, and below the last bar.
const TITLE_HEIGHT: i32 = 34;
const MARGIN: i32 = 10;

const INK: RGBColor = RGBColor(0x22, 0x2b, 0x36);
const OURS: RGBColor = RGBColor(0x1f, 0x6f, 0xb2);
const OTHERS: RGBColor = RGBColor(0xa8, 0xb4, 0xc2);

/// What could not be drawn.
pub(super) type ChartError = DrawingAreaErrorKind<std::io::Error>;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Bars that belong together.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) label: String,
    pub(super) bars: Vec<Bar>,
}

/// One measurement.
#[derive(Debug)]
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) figures: Figures,
    pub(super) is_ours: bool,
}

/// A chart; less is better.
#[derive(Debug)]
pub(super) struct Chart {
    /// Its file's name, without the ending.
    pub(super) name: String,
    pub(super) title: String,
    pub(super) groups: Vec<Group>,
}

impl Chart {
    /// Draws it.
    pub(super) fn svg(&self) -> Result<String, ChartError> {
        let mut svg = String::new();
        let width = LABELS_WIDTH + BARS_WIDTH + NUMBERS_WIDTH;
        {
            let size = (width.unsigned_abs(), self.height().unsigned_abs());
            let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            area.fill(&WHITE)?;
            self.draw(&area)?;
            area.present()?;
        }
        Ok(svg)
    }

    fn height(&self) -> i32 {
        let rows: usize = self.groups.iter().map(|group| group.bars.len()).sum();
        let count = |number: usize| i32::try_from(number).unwrap_or(0);
        TITLE_HEIGHT + count(self.groups.len()) * HEAD_HEIGHT + count(rows) * ROW_HEIGHT + MARGIN
    }

    fn draw(&self, area: &Area<'_>) -> Result<(), ChartError> {
        let all = self.groups.iter().flat_map(|group| &group.bars);
        let longest = all.map(|bar| bar.figures.max).fold(f64::MIN_POSITIVE, f64::max);
        text(area, &self.title, (MARGIN, TITLE_HEIGHT / 2), 16, HPos::Left)?;
        let mut top = TITLE_HEIGHT;
        for group in &self.groups {
            text(area, &group.label, (MARGIN, top + HEAD_HEIGHT / 2), 13, HPos::Left)?;
            top += HEAD_HEIGHT;
            for bar in &group.bars {
                draw_bar(area, bar, top, longest)?;
                top += ROW_HEIGHT;
            }
        }
        Ok(())
    }
}

fn draw_bar(area: &Area<'_>, bar: &Bar, top: i32, longest: f64) -> Result<(), ChartError> {
    #[expect(clippy::cast_possible_truncation, reason = "a share of some hundred pixels")]
    let x = |value: f64| LABELS_WIDTH + (f64::from(BARS_WIDTH) * value / longest).round() as i32;
    let Figures { median, min, max } = bar.figures;
    let middle = top + ROW_HEIGHT / 2;
    let colour = if bar.is_ours { OURS } else { OTHERS };
    text(area, &bar.label, (LABELS_WIDTH - MARGIN, middle), 12, HPos::Right)?;
    let corners = [(LABELS_WIDTH, middle - BAR_HEIGHT / 2), (x(median), middle + BAR_HEIGHT / 2)];
    area.draw(&Rectangle::new(corners, colour.filled()))?;
    let range = vec![(x(min), middle), (x(max), middle)];
    area.draw(&PathElement::new(range, INK.stroke_width(1)))?;
    let number = format!("{median:.1} [{min:.1}–{max:.1}]");
    text(area, &number, (x(max) + MARGIN / 2, middle), 12, HPos::Left)
}

fn text(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    size: i32,
    anchor: HPos,
) -> Result<(), ChartError> {
    let style = ("sans-serif", size, &INK).into_text_style(area);
    let style = style.pos(Pos::new(anchor, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_has_its_label_and_its_number() {
        let figures = Figures { median: 80.0, min: 79.5, max: 90.25 };
        let bar = |label: &str, is_ours| Bar { label: label.into(), figures, is_ours };
        let chart = Chart {
            name: "chart".into(),
            title: "Cycles a packet".into(),
            groups: vec![Group {
                label: "1 flow".into(),
                bars: vec![bar("vrouter", true), bar("another", false)],
            }],
        };
        let svg = chart.svg().unwrap();
        for part in ["Cycles a packet", "1 flow", "vrouter", "another", "80.0 [79.5–90.2]"] {
            assert!(svg.contains(part), "{part} is missing in {svg}");
        }
        assert_eq!(svg, chart.svg().unwrap());
    }
}
