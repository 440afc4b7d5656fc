//! The one place that writes to standard output and standard error.

use std::io::{self, IsTerminal as _, Write as _};

/// Where a command's results and its progress go.
#[derive(Debug)]
pub(crate) struct Output {
    colour: bool,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self {
            colour: io::stderr().is_terminal(),
        }
    }

    /// A result, to standard output. A reader that has gone away is no error.
    pub(crate) fn text(&mut self, text: &str) {
        drop(io::stdout().lock().write_all(text.as_bytes()));
        drop(io::stdout().lock().flush());
    }

    /// Progress or a warning, to standard error.
    pub(crate) fn note(&mut self, text: &str) {
        drop(writeln!(io::stderr().lock(), "{text}"));
    }

    /// A step that is done.
    pub(crate) fn done(&mut self, text: &str) {
        let mark = if self.colour {
            "\u{1b}[32m✓\u{1b}[0m"
        } else {
            "ok"
        };
        self.note(&format!("{mark} {text}"));
    }

    pub(crate) fn error(&mut self, error: &anyhow::Error) {
        let mark = if self.colour {
            "\u{1b}[31merror\u{1b}[0m"
        } else {
            "error"
        };
        self.note(&format!("{mark}: {}", in_words(error)));
    }
}

/// An error with its causes; those that it quotes itself are not repeated.
pub(crate) fn in_words(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.ends_with(&cause) {
            continue;
        }
        if !text.is_empty() {
            text += ": ";
        }
        text += &cause;
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn causes_are_told_once() {
        let error = anyhow!("disk full").context("write f: disk full");
        assert_eq!(
            in_words(&error.context("start")),
            "start: write f: disk full"
        );
        let error = anyhow!("disk full").context("write f");
        assert_eq!(in_words(&error), "write f: disk full");
    }
}
