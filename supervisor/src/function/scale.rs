//! How many more instances a function needs now: pure.

use crate::catalog::manifest::Scale;

/// How many instances to start, given the requests between permit and end of body, and the places that run, start
/// or wait to be started again.
pub fn missing(scale: &Scale, admitted: usize, places: usize) -> usize {
    let needed = admitted
        .div_ceil(scale.concurrency as usize)
        .max(scale.min as usize);
    needed.min(scale.max as usize).saturating_sub(places)
}

/// How many of `running` instances may stop, given that no request came for `scale.idle`.
pub fn surplus(scale: &Scale, running: usize) -> usize {
    running.saturating_sub(scale.min as usize)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SCALE: Scale = Scale {
        min: 0,
        max: 3,
        concurrency: 10,
        idle: Duration::from_secs(60),
    };

    #[test]
    fn one_for_the_first_request_and_one_more_for_each_full_one() {
        assert_eq!(missing(&SCALE, 0, 0), 0);
        assert_eq!(missing(&SCALE, 1, 0), 1);
        assert_eq!(missing(&SCALE, 10, 1), 0);
        assert_eq!(missing(&SCALE, 11, 1), 1);
        assert_eq!(missing(&SCALE, 1000, 1), 2);
    }

    #[test]
    fn the_minimum_is_kept() {
        let scale = Scale { min: 2, ..SCALE };
        assert_eq!(missing(&scale, 0, 0), 2);
        assert_eq!(surplus(&scale, 3), 1);
        assert_eq!(surplus(&scale, 2), 0);
    }
}
