//! The pieces of the document: sections, tables, goals.

use std::fmt::Write as _;

use perf::figures::Figures;

use super::chart::Chart;

/// A part of the document, and its charts.
#[derive(Debug, Default)]
pub(super) struct Section {
    pub(super) text: String,
    pub(super) charts: Vec<Chart>,
}

impl Section {
    /// One with a heading and paragraphs.
    pub(super) fn new(heading: &str, paragraphs: &[&str]) -> Self {
        let mut section = Self::default();
        section.push(&format!("## {heading}"));
        for paragraph in paragraphs {
            section.push(paragraph);
        }
        section
    }

    /// Appends a paragraph.
    pub(super) fn push(&mut self, paragraph: &str) {
        self.text.push_str(paragraph.trim_end());
        self.text.push_str("\n\n");
    }

    /// Appends a chart: a link to its file in `folder`, as seen from the document.
    pub(super) fn push_chart(&mut self, chart: Chart, folder: &str) {
        self.push(&format!("![{}]({folder}/{}.svg)", chart.title, chart.name));
        self.charts.push(chart);
    }

    /// Appends a list.
    pub(super) fn push_list(&mut self, items: &[String]) {
        let items: Vec<String> = items.iter().map(|item| format!("* {item}")).collect();
        self.push(&items.join("\n"));
    }
}

/// A table: names of columns, of which those that begin with `#` hold numbers, and rows.
#[derive(Debug)]
pub(super) struct Table {
    text: String,
}

impl Table {
    pub(super) fn new(columns: &[&str]) -> Self {
        let names: Vec<&str> = columns.iter().map(|name| name.trim_start_matches('#')).collect();
        let rules: Vec<&str> =
            columns.iter().map(|name| if name.starts_with('#') { "---:" } else { "---" }).collect();
        Self { text: format!("| {} |\n| {} |\n", names.join(" | "), rules.join(" | ")) }
    }

    pub(super) fn push(&mut self, cells: &[String]) {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(self.text, "| {} |", cells.join(" | "));
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

/// A median with the range of all rounds.
pub(super) fn spread(figures: Figures, digits: usize) -> String {
    let Figures { median, min, max } = figures;
    format!("{median:.digits$} [{min:.digits$}–{max:.digits$}]")
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// So many flows, in words.
pub(super) fn flows(number: u32) -> String {
    match number {
        1 => "1 flow".into(),
        _ => format!("{} flows", grouped(number)),
    }
}

/// A goal and whether it is met.
pub(super) fn goal(text: &str, is_met: bool) -> String {
    format!("{text}: {}", if is_met { "met" } else { "**missed**" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        assert_eq!(grouped(1), "1");
        assert_eq!(grouped(65_536), "65,536");
        assert_eq!(grouped(1_048_576), "1,048,576");
    }

    #[test]
    fn a_table_has_a_rule_and_escapes_its_cells() {
        let mut table = Table::new(&["what", "#ns"]);
        table.push(&["a|b".into(), "1.0".into()]);
        assert_eq!(table.into_text(), "| what | ns |\n| --- | ---: |\n| a\\|b | 1.0 |\n");
    }
}
