//! The one way to the terminal.
//!
//! What a stranger wrote (a sender, a reply, a header line) reaches the terminal as text only: control
//! characters are shown, never obeyed. A reader who went away (`| head`) is no error; the caller
//! gets it as one of kind `BrokenPipe`, and [`super::main`] ends quietly.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

use serde::Serialize;

use super::text::visible;

/// Writes answers to standard output and everything else to standard error.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Printer;

impl Printer {
    /// A line of the answer (which may have line ends in it).
    ///
    /// # Errors
    /// The system's; of kind `BrokenPipe` when the reader went away.
    pub(crate) fn line(self, text: impl Display) -> io::Result<()> {
        let text = text.to_string();
        let mut out = io::stdout().lock();
        writeln!(out, "{}", visible(&text))?;
        out.flush()
    }

    /// A value as JSON, for programs.
    ///
    /// # Errors
    /// As [`Printer::line`].
    pub(crate) fn json(self, value: &impl Serialize) -> io::Result<()> {
        // JSON escapes control characters itself.
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, value)?;
        writeln!(out)?;
        out.flush()
    }

    /// Octets as they are; on a terminal, as text.
    ///
    /// # Errors
    /// As [`Printer::line`].
    pub(crate) fn octets(self, octets: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if out.is_terminal() {
            let text = String::from_utf8_lossy(octets).replace("\r\n", "\n");
            out.write_all(visible(&text).as_bytes())?;
        } else {
            out.write_all(octets)?;
        }
        out.flush()
    }

    /// A remark beside the answer, on standard error.
    pub(crate) fn note(self, text: impl Display) {
        let text = text.to_string();
        // Nobody is left to tell when standard error is gone.
        writeln!(io::stderr().lock(), "{}", visible(&text)).unwrap_or_default();
    }

    /// What went wrong and what to do, on standard error: `gatepost: ...`, one line a problem.
    pub(crate) fn error(self, text: impl Display) {
        for line in text.to_string().lines() {
            self.note(format_args!("gatepost: {line}"));
        }
    }

    /// Rows under headings, in columns as wide as their widest cell.
    ///
    /// # Errors
    /// As [`Printer::line`].
    pub(crate) fn table(self, table: &Table) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(table.render().as_bytes())?;
        out.flush()
    }
}

/// Rows of cells. The last column is not padded.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
enum Row {
    Cells(Vec<String>),
    /// Belongs to the row above; does not count for the widths.
    Remark(String),
}

/// Between columns.
const GAP: usize = 2;

impl Table {
    /// A table that begins with `headings`.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let mut table = Self::default();
        table.row(headings.iter().map(|heading| (*heading).to_owned()));
        table
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        // A line end would break the table, whatever `visible` lets through elsewhere.
        let cells = cells.into_iter().map(|cell| one_line(&cell));
        self.rows.push(Row::Cells(cells.collect()));
    }

    /// Adds a line that belongs to the row above.
    pub(crate) fn remark(&mut self, text: &str) {
        self.rows.push(Row::Remark(one_line(text)));
    }

    fn render(&self) -> String {
        let mut widths: Vec<usize> = Vec::new();
        for row in &self.rows {
            let Row::Cells(cells) = row else { continue };
            widths.resize(widths.len().max(cells.len()), 0);
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            match row {
                Row::Cells(cells) => push_cells(&mut text, cells, &widths),
                Row::Remark(remark) => {
                    text.push_str("    ");
                    text.push_str(remark);
                }
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
        text
    }
}

fn push_cells(text: &mut String, cells: &[String], widths: &[usize]) {
    for (cell, width) in cells.iter().zip(widths) {
        text.push_str(cell);
        let missing = width.saturating_sub(cell.chars().count()) + GAP;
        text.extend(std::iter::repeat_n(' ', missing));
    }
}

fn one_line(text: &str) -> String {
    visible(text).replace(['\n', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An escape sequence in a stranger's text is shown, not obeyed.
    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(visible("a\u{1b}[2Jb\r"), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(visible("two\nlines\t."), "two\nlines\t.");
        assert_eq!(visible("\u{9b}31m"), "\u{fffd}31m", "C1 controls too");
        assert_eq!(visible("gpj.\u{202e}exe"), "gpj.\u{fffd}exe");
    }

    /// Columns line up, remarks do not widen them, lines have no trailing blanks.
    #[test]
    fn a_table_lines_up() {
        let mut table = Table::new(&["NAME", "STATE", "WHY"]);
        table.row(["a", "ready", ""].map(String::from));
        table.row(["longer", "held", "two\nlines"].map(String::from));
        table.remark("what to do about it, at some length");
        let wanted = "NAME    STATE  WHY\n\
                      a       ready\n\
                      longer  held   two lines\n    \
                      what to do about it, at some length\n";
        assert_eq!(table.render(), wanted);
    }
}
