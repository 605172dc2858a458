//! Text in columns.

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Words.
    Left,
    /// Figures.
    Right,
}

/// A table under a line of headings. Columns are as wide as they have to be; the last may end anywhere.
pub(crate) fn table<const N: usize>(headings: [(&str, Side); N], rows: &[[String; N]]) -> String {
    let widths: Vec<usize> = (0..N)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell));
            cells.chain(headings.get(column).map(|(heading, _)| width(heading))).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for ((cell, (_, side)), width_of_column) in cells.iter().zip(headings).zip(&widths) {
            let gap = " ".repeat(width_of_column.saturating_sub(width(cell)));
            match side {
                Side::Left => line.extend([cell, &*gap]),
                Side::Right => line.extend([&*gap, cell]),
            }
            line.push_str("  ");
        }
        line.truncate(line.trim_end().len());
        line + "\n"
    };
    let mut text = line(headings.map(|(heading, _)| heading));
    for row in rows {
        text.push_str(&line(row.each_ref().map(String::as_str)));
    }
    text
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// A time as people read it.
pub(crate) fn time(millis: f64) -> String {
    match millis {
        ..10.0 => format!("{millis:.1} ms"),
        ..10_000.0 => format!("{millis:.0} ms"),
        _ => format!("{:.1} s", millis / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_have_to_be() {
        let rows = [["a".to_owned(), "1".to_owned()], ["Überlänge".to_owned(), "100".to_owned()]];
        let text = table([("NAME", Side::Left), ("N", Side::Right)], &rows);
        assert_eq!(text, "NAME         N\na            1\nÜberlänge  100\n");
    }

    #[test]
    fn times_are_rounded_to_what_matters() {
        let told = [0.04, 9.96, 12.3, 9_999.0, 12_345.0].map(time);
        assert_eq!(told, ["0.0 ms", "10.0 ms", "12 ms", "9999 ms", "12.3 s"]);
    }
}
