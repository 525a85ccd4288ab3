//! Whether a request may be tried once more: what is safe (a table), and how many at once (a budget). Pure; never sends anything.

use std::time::Instant;

use http::Method;

/// How far a request got before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Not a byte was written: the connection was refused, or the client handed the request back.
    NotWritten,
    /// It was written, and the instance ended before a response head.
    NoHead,
    /// The response head went to the caller already: the response is aborted, so that the truncation is visible.
    HeadForwarded,
    /// It was not answered in time.
    Timeout,
    /// It was refused by admission.
    Shed,
    /// The function's own code answered with a 5xx.
    Answered5xx,
}

/// What is known of the request that failed.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// Its method.
    pub method: &'a Method,
    /// It has an `Idempotency-Key`.
    pub has_key: bool,
    /// The manifest says that PUT, DELETE and requests with a key may be sent twice.
    pub opted_in: bool,
    /// All of its body is at hand: it has none, or it was kept, up to [`Attempt::BODY`].
    pub has_body_at_hand: bool,
    /// How often it was tried before.
    pub retries: u32,
}

impl Attempt<'_> {
    /// Bodies up to this long are kept for a retry, in bytes.
    pub const BODY: usize = 64 * 1024;
    /// One retry: what fails twice fails.
    const MOST: u32 = 1;

    /// The table of what may be tried again.
    pub fn may_retry(&self, failure: Failure) -> bool {
        if self.retries >= Self::MOST {
            return false;
        }
        match failure {
            Failure::NotWritten => true,
            Failure::NoHead => {
                let safe = [Method::GET, Method::HEAD, Method::OPTIONS].contains(self.method);
                let idempotent = [Method::PUT, Method::DELETE].contains(self.method) || self.has_key;
                self.has_body_at_hand && (safe || (self.opted_in && idempotent))
            }
            Failure::HeadForwarded | Failure::Timeout | Failure::Shed | Failure::Answered5xx => false,
        }
    }
}

/// How many retries a function may have: a tenth of its requests and one more a second, saved up a little; so that retries can't
/// make an overload out of a failure (as Finagle's `RetryBudget`).
#[derive(Debug, Clone)]
pub struct Budget {
    /// Retries saved up from requests, and from time.
    saved: [f64; 2],
    /// When something was put in, and how many requests there had been.
    at: Instant,
    requests: u64,
}

impl Budget {
    /// For each request.
    const PART: f64 = 0.1;
    /// For each second.
    const PER_SECOND: f64 = 1.0;
    /// What is saved up at most, from requests and from time: enough for what was in flight when one instance of several dies.
    const MOST: [f64; 2] = [100.0, 10.0];

    /// The budget of a function that had no request yet.
    pub fn new(requests: u64, now: Instant) -> Budget {
        Budget {
            saved: [0.0, Self::MOST[1]],
            at: now,
            requests,
        }
    }

    /// Takes one retry out of the budget, if there is one, given the requests since the function's begin.
    pub fn withdraw(&mut self, requests: u64, now: Instant) -> bool {
        let earned = [
            requests.saturating_sub(self.requests) as f64 * Self::PART,
            now.saturating_duration_since(self.at).as_secs_f64() * Self::PER_SECOND,
        ];
        (self.requests, self.at) = (requests, now);
        for ((saved, earned), most) in self.saved.iter_mut().zip(earned).zip(Self::MOST) {
            *saved = (*saved + earned).min(most);
        }
        match self.saved.iter_mut().find(|saved| **saved >= 1.0) {
            Some(saved) => {
                *saved -= 1.0;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const ATTEMPT: Attempt<'_> = Attempt {
        method: &Method::POST,
        has_key: false,
        opted_in: false,
        has_body_at_hand: true,
        retries: 0,
    };

    #[test]
    fn the_table() {
        let with = |method| Attempt { method, ..ATTEMPT };
        for method in [&Method::GET, &Method::POST, &Method::PATCH] {
            assert!(with(method).may_retry(Failure::NotWritten));
            for never in [
                Failure::HeadForwarded,
                Failure::Timeout,
                Failure::Shed,
                Failure::Answered5xx,
            ] {
                assert!(!with(method).may_retry(never));
            }
        }
        for safe in [&Method::GET, &Method::HEAD, &Method::OPTIONS] {
            assert!(with(safe).may_retry(Failure::NoHead));
        }
        for unsafe_ in [&Method::POST, &Method::PUT, &Method::DELETE, &Method::PATCH] {
            assert!(!with(unsafe_).may_retry(Failure::NoHead));
        }
        let opted = |method, has_key| Attempt {
            method,
            has_key,
            opted_in: true,
            ..ATTEMPT
        };
        assert!(opted(&Method::PUT, false).may_retry(Failure::NoHead));
        assert!(opted(&Method::DELETE, false).may_retry(Failure::NoHead));
        assert!(!opted(&Method::POST, false).may_retry(Failure::NoHead));
        assert!(opted(&Method::POST, true).may_retry(Failure::NoHead));
    }

    #[test]
    fn once_and_only_with_the_body() {
        let again = Attempt {
            retries: 1,
            ..ATTEMPT
        };
        assert!(!again.may_retry(Failure::NotWritten));
        let sent = Attempt {
            method: &Method::GET,
            has_body_at_hand: false,
            ..ATTEMPT
        };
        assert!(!sent.may_retry(Failure::NoHead));
    }

    #[test]
    fn a_tenth_and_one_a_second() {
        let mut now = Instant::now();
        let mut budget = Budget::new(0, now);
        let mut retries = 0;
        for requests in 1..=60_000 {
            now += Duration::from_millis(1);
            retries += u32::from(budget.withdraw(requests, now));
        }
        assert!((6_060..=6_070).contains(&retries), "{retries}");
    }

    #[test]
    fn a_quiet_function_has_ten_in_ten_seconds() {
        let now = Instant::now();
        let mut budget = Budget::new(0, now);
        assert_eq!((0..100).filter(|_| budget.withdraw(0, now)).count(), 10);
        let later = now + Duration::from_secs(10);
        assert_eq!((0..100).filter(|_| budget.withdraw(0, later)).count(), 10);
    }

    proptest! {
        /// Over any stretch there are at most as many as earned then and saved up before.
        #[test]
        fn no_stretch_has_more(steps in prop::collection::vec((0_u64..2000, 0_u64..200, 0_usize..50), 1..60)) {
            let began = Instant::now();
            let (mut now, mut requests) = (began, 0);
            let mut budget = Budget::new(0, now);
            let mut log = Vec::new();
            for (millis, more, tries) in steps {
                now += Duration::from_millis(millis);
                requests += more;
                let got = (0..tries).filter(|_| budget.withdraw(requests, now)).count();
                log.push((now, requests, got));
            }
            for from in 0..log.len() {
                let (then, before) = from.checked_sub(1).map_or((began, 0), |i| (log[i].0, log[i].1));
                let got: usize = log[from..].iter().map(|&(_, _, got)| got).sum();
                let earned = (requests - before) as f64 * 0.1 + (now - then).as_secs_f64();
                prop_assert!(got as f64 <= earned + 110.0 + 1e-6, "{got} {earned}");
            }
        }
    }
}
