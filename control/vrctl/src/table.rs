//! Tables for people: aligned columns, no frames, no colour of their own.

use std::io::{self, Write};

/// Which side a column's cells are pushed to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Align {
    /// Names and addresses.
    Left,
    /// Numbers.
    Right,
}

/// A column's heading and alignment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    title: &'static str,
    align: Align,
}

/// A column of text.
pub(crate) const fn text(title: &'static str) -> Column {
    Column { title, align: Align::Left }
}

/// A column of numbers.
pub(crate) const fn number(title: &'static str) -> Column {
    Column { title, align: Align::Right }
}

/// Writes rows in aligned columns. Widths only grow, so that long lists can be written in pieces.
#[derive(Debug)]
pub(crate) struct Table {
    columns: &'static [Column],
    widths: Vec<usize>,
    has_heading: bool,
}

impl Table {
    /// A table without rows yet.
    pub(crate) fn new(columns: &'static [Column]) -> Self {
        let widths = columns.iter().map(|column| width(column.title)).collect();
        Self { columns, widths, has_heading: false }
    }

    /// Writes the heading, if it is not there yet, and `rows`.
    ///
    /// # Errors
    ///
    /// Fails if `out` does.
    pub(crate) fn write(
        &mut self,
        out: &mut impl Write,
        rows: &[Vec<String>],
        is_bold: bool,
    ) -> io::Result<()> {
        for row in rows {
            for (column_width, cell) in self.widths.iter_mut().zip(row) {
                *column_width = (*column_width).max(width(cell));
            }
        }
        if !self.has_heading {
            self.has_heading = true;
            let titles: Vec<_> =
                self.columns.iter().map(|column| column.title.to_owned()).collect();
            let line = self.line(&titles);
            if is_bold {
                writeln!(out, "\x1b[1m{line}\x1b[0m")?;
            } else {
                writeln!(out, "{line}")?;
            }
        }
        for row in rows {
            writeln!(out, "{}", self.line(row))?;
        }
        Ok(())
    }

    fn line(&self, cells: &[String]) -> String {
        let mut line = String::new();
        for ((column, &column_width), cell) in self.columns.iter().zip(&self.widths).zip(cells) {
            let shown = if cell.is_empty() { "-" } else { cell };
            let padding = " ".repeat(column_width.saturating_sub(width(shown)));
            match column.align {
                Align::Left => line.extend([shown, &padding, "  "]),
                Align::Right => line.extend([&padding, shown, "  "]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_empty_cells_marked() {
        const COLUMNS: &[Column] = &[text("NAME"), number("PACKETS"), text("STATE")];
        let mut out = Vec::new();
        let mut table = Table::new(COLUMNS);
        let rows = [
            vec!["uplink".into(), "12,345,678".into(), "up".into()],
            vec!["é".into(), "0".into(), String::new()],
        ];
        table.write(&mut out, &rows, false).unwrap();
        let expected = "\
NAME       PACKETS  STATE
uplink  12,345,678  up
é                0  -
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
