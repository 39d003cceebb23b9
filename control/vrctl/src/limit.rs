//! How many rows of a long list are asked for.

use std::{num::ParseIntError, str::FromStr};

/// Rows at most; 0 stands for all of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit(u64);

impl FromStr for Limit {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

impl Limit {
    /// What to ask the engine for: one row more than is shown, which tells whether there are more.
    pub(crate) fn asked(self) -> u64 {
        if self.0 == 0 { 0 } else { self.0.saturating_add(1) }
    }

    /// Cuts `rows` to the limit, and says so on standard error.
    pub(crate) fn cut<R>(self, rows: &mut Vec<R>, what: &str) {
        let Ok(limit) = usize::try_from(self.0) else { return };
        if limit > 0 && rows.len() > limit {
            rows.truncate(limit);
            eprintln!("vrctl: only the first {limit} {what} are shown; --limit 0 shows all");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_more_than_the_limit_is_asked_for_and_cut() {
        let mut rows = vec![1, 2, 3];
        assert_eq!(Limit(2).asked(), 3);
        Limit(2).cut(&mut rows, "rows");
        assert_eq!(rows, [1, 2]);
        assert_eq!(Limit(0).asked(), 0);
        Limit(0).cut(&mut rows, "rows");
        assert_eq!(rows, [1, 2]);
    }
}
