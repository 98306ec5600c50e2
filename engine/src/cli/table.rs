//! Tables for people.

use std::fmt::Write as _;

/// `rows` under `head`, each column as wide as its widest cell, two spaces between.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: &[&str]| {
        let mut row = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            let _ = write!(row, "{cell:width$}  ");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    };
    line(&head);
    for row in rows {
        line(&row.each_ref().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_are_aligned() {
        let rows = [["a".to_owned(), "bbb".to_owned()], ["aaaa".to_owned(), String::new()]];
        assert_eq!(table(["one", "two"], &rows), "one   two\na     bbb\naaaa\n");
    }
}
