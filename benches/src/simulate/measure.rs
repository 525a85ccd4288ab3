//! What the books of a run say. Pure.

use funcd::admission::Class;

use super::script::{Books, Fate};

/// Requests that were sent in a stretch of time, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    pub(crate) from: f64,
    pub(crate) to: f64,
}

fn of(books: &Books, stretch: Stretch, class: Option<Class>) -> impl Iterator<Item = &Fate> {
    books.fates.iter().filter(move |fate| {
        (stretch.from..stretch.to).contains(&fate.sent) && class.is_none_or(|class| class == fate.class)
    })
}

/// Answers in time, a second.
pub(crate) fn goodput(books: &Books, stretch: Stretch) -> f64 {
    let good = of(books, stretch, None)
        .filter(|fate| fate.answered.is_some())
        .count();
    good as f64 / (stretch.to - stretch.from)
}

/// The part of the requests that was answered in time.
pub(crate) fn success(books: &Books, stretch: Stretch, class: Option<Class>) -> f64 {
    let all = of(books, stretch, class).count();
    let good = of(books, stretch, class)
        .filter(|fate| fate.answered.is_some())
        .count();
    if all == 0 { 1.0 } else { good as f64 / all as f64 }
}

/// Requests sent from then on that got no answer in time.
pub(crate) fn failed(books: &Books, from: f64) -> usize {
    let lost = |fate: &&Fate| fate.answered.is_none() && fate.sent >= from;
    books.fates.iter().filter(lost).count()
}

/// All but one in a hundred of the answers came within this, in seconds.
pub(crate) fn p99(books: &Books, stretch: Stretch) -> f64 {
    let mut times: Vec<f64> = of(books, stretch, None)
        .filter_map(|fate| fate.answered)
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    let rank = (times.len() * 99).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// From `end` until at least 99 % of the requests of every half second succeed, for good. In seconds; `None`: never.
pub(crate) fn recovery(books: &Books, end: f64, length: f64) -> Option<f64> {
    let steps = ((length - end - 0.5) / 0.1) as usize;
    let bad = |step: &usize| {
        let from = end + 0.1 * *step as f64;
        success(books, Stretch { from, to: from + 0.5 }, None) < 0.99
    };
    match (0..=steps).rev().find(bad) {
        None => Some(0.0),
        Some(last) if last == steps => None,
        // Whoever was sent after this was answered.
        Some(last) => Some(0.1 * last as f64 + 0.5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(fates: impl IntoIterator<Item = (f64, bool)>) -> Books {
        let fates = fates.into_iter().map(|(sent, good)| Fate {
            class: Class::Degraded,
            sent,
            answered: good.then_some(sent),
        });
        Books {
            fates: fates.collect(),
            ..Books::default()
        }
    }

    #[test]
    fn it_recovered_when_nothing_fails_any_more() {
        let at = |n: u32| f64::from(n) / 100.0;
        let broken_until = |until: f64| books((0..500).map(move |n| (at(n), at(n) >= until)));
        assert_eq!(recovery(&broken_until(0.0), 0.0, 5.0), Some(0.0));
        let recovered = recovery(&broken_until(1.0), 0.0, 5.0).unwrap();
        assert!((1.0..=1.5).contains(&recovered), "{recovered}");
        assert_eq!(recovery(&broken_until(9.0), 0.0, 5.0), None);
    }

    #[test]
    fn only_what_was_sent_then_counts() {
        let books = books([(0.5, true), (1.5, false), (1.6, true), (2.5, true)]);
        let stretch = Stretch { from: 1.0, to: 2.0 };
        assert_eq!(success(&books, stretch, None), 0.5);
        assert_eq!(goodput(&books, stretch), 1.0);
        assert_eq!(p99(&books, stretch), 1.6);
        assert_eq!((failed(&books, 1.5), failed(&books, 1.6)), (1, 0));
        assert_eq!(success(&books, stretch, Some(Class::Bulk)), 1.0);
    }
}
