//! One answer, two readers: a table for people or JSON for programs.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use serde::Serialize;

use crate::{
    exit::Failure,
    table::{Column, Table},
};

/// Rows that are laid out together; longer lists are written in pieces of this many.
const PIECE_ROWS: usize = 4096;

/// A row of an answer. Its fields as serde names them are the JSON output.
pub(crate) trait Row: Serialize {
    /// The table's columns.
    const COLUMNS: &'static [Column];

    /// One cell per column; empty cells are shown as `-`.
    fn cells(&self) -> Vec<String>;
}

/// Where answers go.
#[derive(Debug)]
pub(crate) struct Printer<W: Write = BufWriter<Stdout>> {
    out: W,
    is_json: bool,
    is_terminal: bool,
}

impl Printer {
    /// A printer on standard output, with bold headings only if a person looks at them.
    pub(crate) fn to_stdout(is_json: bool) -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        Self { out: BufWriter::new(stdout), is_json, is_terminal }
    }
}

impl<W: Write> Printer<W> {
    /// Whether programs read it.
    pub(crate) fn is_json(&self) -> bool {
        self.is_json
    }

    /// A list: a table, or a JSON array with a row a line.
    ///
    /// # Errors
    ///
    /// Fails if the output does.
    pub(crate) fn list<R: Row>(&mut self, rows: &[R]) -> Result<(), Failure> {
        if self.is_json { self.json_array(rows) } else { self.table(rows) }
            .and_then(|()| self.out.flush())
            .map_err(Failure::Output)
    }

    /// A list of a watch: the JSON array is one line.
    ///
    /// # Errors
    ///
    /// Fails if the output does.
    pub(crate) fn watched<R: Row>(&mut self, rows: &[R]) -> Result<(), Failure> {
        if self.is_json { self.json_line(rows) } else { self.table_on_clear_screen(rows) }
            .and_then(|()| self.out.flush())
            .map_err(Failure::Output)
    }

    /// A single object as JSON.
    ///
    /// # Errors
    ///
    /// Fails if the output does.
    pub(crate) fn object(&mut self, object: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer_pretty(&mut self.out, object)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(self.out))
            .and_then(|()| self.out.flush())
            .map_err(Failure::Output)
    }

    /// Lines of text.
    ///
    /// # Errors
    ///
    /// Fails if the output does.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.out, "{text}").and_then(|()| self.out.flush()).map_err(Failure::Output)
    }

    /// Whatever `write` writes.
    ///
    /// # Errors
    ///
    /// Fails if the output does.
    pub(crate) fn raw(&mut self, write: impl FnOnce(&mut dyn Write)) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        write(&mut bytes);
        self.out.write_all(&bytes).and_then(|()| self.out.flush()).map_err(Failure::Output)
    }

    fn table<R: Row>(&mut self, rows: &[R]) -> io::Result<()> {
        let mut table = Table::new(R::COLUMNS);
        let is_bold = self.is_bold();
        // Without rows the heading alone says that the answer is "none".
        if rows.is_empty() {
            return table.write(&mut self.out, &[], is_bold);
        }
        for piece in rows.chunks(PIECE_ROWS) {
            let cells: Vec<_> = piece.iter().map(Row::cells).collect();
            table.write(&mut self.out, &cells, is_bold)?;
        }
        Ok(())
    }

    fn table_on_clear_screen<R: Row>(&mut self, rows: &[R]) -> io::Result<()> {
        if self.is_terminal {
            write!(self.out, "\x1b[H\x1b[2J")?;
        }
        self.table(rows)?;
        if self.is_terminal { Ok(()) } else { writeln!(self.out) }
    }

    fn json_array<R: Row>(&mut self, rows: &[R]) -> io::Result<()> {
        write!(self.out, "[")?;
        for (index, row) in rows.iter().enumerate() {
            write!(self.out, "{}", if index == 0 { "\n  " } else { ",\n  " })?;
            serde_json::to_writer(&mut self.out, row)?;
        }
        writeln!(self.out, "{}]", if rows.is_empty() { "" } else { "\n" })
    }

    fn json_line<R: Row>(&mut self, rows: &[R]) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, rows)?;
        writeln!(self.out)
    }

    fn is_bold(&self) -> bool {
        self.is_terminal && std::env::var_os("NO_COLOR").is_none()
    }
}
