//! Columns as Istio's tools align them: each as wide as its widest cell and a gap, the last as it is.

/// Rows below a heading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    gap: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With five spaces between columns.
    pub(crate) fn new<S: Into<String>>(heading: impl IntoIterator<Item = S>) -> Self {
        Self::spaced(5, heading)
    }

    /// With so many spaces between columns.
    pub(crate) fn spaced<S: Into<String>>(
        gap: usize,
        heading: impl IntoIterator<Item = S>,
    ) -> Self {
        Self {
            gap,
            rows: vec![heading.into_iter().map(Into::into).collect()],
        }
    }

    pub(crate) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let wide = |text: &String| text.chars().count();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(wide).max().unwrap_or_default() + self.gap
        };
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let last = row.len().saturating_sub(1);
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if column == last {
                    f.write_str(cell)?;
                } else {
                    write!(f, "{cell}{}", " ".repeat(width.saturating_sub(wide(cell))))?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::spaced(2, ["NAME", "PORT", "WHO"]);
        table.row(["ümlaut", "80", ""]);
        table.row(["a", "15001", "b"]);
        assert_eq!(
            table.to_string(),
            "NAME    PORT   WHO\nümlaut  80     \na       15001  b\n"
        );
    }
}
