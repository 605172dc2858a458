//! What the user sees: lines that stay, and below them a small table that redraws in place.
//!
//! When standard output is not a terminal the table becomes one plain line now and then.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal, Write};

/// How many drawings of the table there are to one plain line.
const PLAIN_EVERY: u32 = 8;

/// The terminal, or whatever standard output is.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: bool,
    table: RefCell<Vec<String>>,
    drawn: Cell<usize>,
    drawings: Cell<u32>,
}

impl Screen {
    /// Standard output.
    pub(crate) fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        Self { terminal, table: RefCell::default(), drawn: Cell::new(0), drawings: Cell::new(0) }
    }

    /// Writes text that stays, above the table.
    pub(crate) fn say(&self, text: &str) {
        let erase = self.erase();
        self.write(&format!("{erase}{text}\n"));
        self.redraw();
    }

    /// Replaces the table.
    pub(crate) fn draw(&self, table: &[String]) {
        if self.terminal {
            let erase = self.erase();
            *self.table.borrow_mut() = table.to_vec();
            self.write(&erase);
            self.redraw();
            return;
        }
        let count = self.drawings.get();
        self.drawings.set(count + 1);
        if count % PLAIN_EVERY == PLAIN_EVERY - 1 {
            // The first line names the columns.
            for row in table.iter().skip(usize::from(count > PLAIN_EVERY)) {
                self.write(&format!("{row}\n"));
            }
        }
    }

    /// Leaves the table where it is; what is said next comes below it.
    pub(crate) fn settle(&self) {
        self.table.borrow_mut().clear();
        self.drawn.set(0);
    }

    fn erase(&self) -> String {
        match self.drawn.replace(0) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    fn redraw(&self) {
        let table = self.table.borrow();
        if table.is_empty() {
            return;
        }
        let lines: String = table.iter().map(|line| format!("{line}\n")).collect();
        self.write(&format!("\n{lines}"));
        self.drawn.set(table.len() + 1);
    }

    /// A reader that has gone is no reason to stop: the exit code still tells the result.
    fn write(&self, text: &str) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}
