//! The known name that a misspelt one was probably meant to be.

/// The nearest of `known`, if near enough to be a slip and not another word.
pub(super) fn nearest<'a>(
    given: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let given = given.to_lowercase();
    let close_enough = 1 + given.chars().count() / 4;
    known
        .into_iter()
        .map(|name| (distance(&given, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= close_enough)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// How many letters must be put in, taken out, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    // Rows of the usual table: the one before the last (for swaps), and the last.
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut previous = None;
    for (i, ca) in a.chars().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, cb) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let replaced = at(&last, j) + usize::from(ca != *cb);
            let mut best = replaced.min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = j > 0 && previous == Some(*cb) && b.get(j - 1) == Some(&ca);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        previous = Some(ca);
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slip is recognised; another word is not guessed at.
    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let known = ["retry_first", "retry_max", "lifetime", "tls"];
        for (given, want) in [
            ("retry_frist", Some("retry_first")),
            ("retryfirst", Some("retry_first")),
            ("RETRY_MAX", Some("retry_max")),
            ("lifetimes", Some("lifetime")),
            ("tsl", Some("tls")),
            ("webhook", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, known), want, "{given}");
        }
    }
}
