//! The counter of a route. Never under threads: those stories are in `tests/admission_interleavings.rs`.

use proptest::prelude::*;

use super::route::RouteLimit;

proptest! {
    /// Whoever comes and leaves, and whatever the limit becomes meanwhile: it counts exactly those that are there.
    #[test]
    fn it_counts_those_that_are_there(events in prop::collection::vec((0..3_u8, any::<u8>()), 0..200)) {
        let limit = RouteLimit::new(3);
        let (mut most, mut inside) = (3, Vec::new());
        for (event, n) in events {
            match event {
                0 => match limit.enter() {
                    Some(place) => {
                        prop_assert!(inside.len() < most);
                        inside.push(place);
                    }
                    None => prop_assert!(inside.len() >= most),
                },
                1 if !inside.is_empty() => drop(inside.swap_remove(usize::from(n) % inside.len())),
                1 => {}
                _ => {
                    most = 1 + usize::from(n % 8);
                    limit.set(most as u32);
                }
            }
            prop_assert_eq!(limit.in_flight() as usize, inside.len());
        }
        inside.clear();
        prop_assert_eq!(limit.in_flight(), 0);
    }
}
