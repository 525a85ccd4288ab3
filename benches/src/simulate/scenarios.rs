//! The scenarios: what is offered, by whom, to what. Numbers that are not goals are chosen to be ordinary; the deadline and the
//! cores are those of the figures that the design was chosen by.

use funcd::admission::Class;

use super::script::{Scenario, Stream};

/// Before the load changes, so that there is something to compare with. In seconds.
pub(crate) const WARM: f64 = 4.0;

/// Callers of one class at this rate from the beginning.
pub(crate) fn stream(class: Class, rate: f64) -> Stream {
    Stream {
        class,
        rate: vec![(0.0, rate)],
        retries: 0,
    }
}

/// 70 % of capacity, then `times` of it.
fn then(class: Class, capacity: f64, times: f64) -> Stream {
    Stream {
        class,
        rate: vec![(0.0, 0.7 * capacity), (WARM, times * capacity)],
        retries: 0,
    }
}

/// Four cores, four instances that take a hundred requests each, and nobody who calls.
fn host(offer: f64) -> Scenario {
    Scenario {
        cores: 4.0,
        cpu: 0.010,
        rare: None,
        io: vec![],
        deadline: 0.250,
        leaves: false,
        streams: vec![],
        length: WARM + 20.0,
        concurrency: 100,
        instances: 4,
        most_instances: 4,
        start: 0.05,
        kill: None,
        breaks: None,
        slow_start: None,
        is_late: false,
        offer,
    }
}

/// Requests a second that the cores do, each with the cost of being offered.
pub(crate) fn capacity(scenario: &Scenario) -> f64 {
    scenario.cores / (scenario.cpu + scenario.offer)
}

/// 10 ms of CPU, nothing else.
pub(crate) fn cpu(times: f64, offer: f64) -> Scenario {
    let mut scenario = host(offer);
    scenario.streams = vec![then(Class::Degraded, capacity(&scenario), times)];
    scenario
}

/// 5 ms of CPU around 45 ms of waiting.
pub(crate) fn io(times: f64, offer: f64) -> Scenario {
    let mut scenario = Scenario {
        cpu: 0.005,
        io: vec![(0.0, 0.045)],
        ..host(offer)
    };
    scenario.streams = vec![then(Class::Degraded, capacity(&scenario), times)];
    scenario
}

/// The same, and nobody comes for a second before the load does, so long before a look at the CPU.
pub(crate) fn rest(times: f64, before: f64, offer: f64) -> Scenario {
    let mut scenario = io(times, offer);
    let capacity = capacity(&scenario);
    scenario.leaves = true;
    scenario.streams[0].rate = vec![
        (0.0, 0.7 * capacity),
        (WARM - 1.0 - before, 0.0),
        (WARM - before, times * capacity),
    ];
    scenario
}

/// Half a second of CPU, eight a second at most: too few for medians to say anything. Callers wait five seconds.
pub(crate) fn heavy(times: f64, offer: f64) -> Scenario {
    let mut scenario = Scenario {
        cpu: 0.5,
        deadline: 5.0,
        length: WARM + 60.0,
        ..host(offer)
    };
    scenario.streams = vec![then(Class::Degraded, capacity(&scenario), times)];
    scenario
}

/// One request in twenty needs forty times the CPU of the others; the mean is 10 ms. Callers wait a second.
pub(crate) fn bimodal(times: f64, offer: f64) -> Scenario {
    Scenario {
        rare: Some((0.05, 40.0)),
        deadline: 1.0,
        ..cpu(times, offer)
    }
}

/// All classes; critical is 45 % of capacity, the others share the rest.
pub(crate) fn classes(times: f64, offer: f64) -> Scenario {
    let mut scenario = host(offer);
    let capacity = capacity(&scenario);
    let rest = (times - 0.45).max(0.0) / 3.0;
    scenario.streams = vec![
        stream(Class::Critical, 0.45 * capacity),
        Stream {
            class: Class::Degraded,
            rate: vec![(0.0, 0.1 * capacity), (WARM, rest * capacity)],
            retries: 0,
        },
        Stream {
            class: Class::BestEffort,
            rate: vec![(0.0, 0.1 * capacity), (WARM, rest * capacity)],
            retries: 0,
        },
        Stream {
            class: Class::Bulk,
            rate: vec![(0.0, 0.05 * capacity), (WARM, rest * capacity)],
            retries: 0,
        },
    ];
    scenario
}

/// Critical and degraded are at 60 %; bulk is a tenth, and for five seconds twelve times the capacity.
pub(crate) fn bulk(offer: f64) -> Scenario {
    let mut scenario = host(offer);
    let capacity = capacity(&scenario);
    scenario.streams = vec![
        stream(Class::Critical, 0.4 * capacity),
        stream(Class::Degraded, 0.2 * capacity),
        Stream {
            class: Class::Bulk,
            rate: vec![
                (0.0, 0.1 * capacity),
                (WARM, 12.0 * capacity),
                (WARM + 5.0, 0.1 * capacity),
            ],
            retries: 0,
        },
    ];
    scenario
}

/// What it waits for takes 400 ms instead of 50; the CPU has almost nothing to do. Callers wait two seconds.
pub(crate) fn dependency(offer: f64) -> Scenario {
    let mut scenario = Scenario {
        cpu: 0.001,
        io: vec![(0.0, 0.050), (WARM, 0.400)],
        deadline: 2.0,
        length: WARM + 20.0,
        ..host(offer)
    };
    scenario.streams = vec![stream(Class::Degraded, 200.0)];
    scenario
}

/// Ten times the capacity for ten seconds, then 70 % of it again.
pub(crate) fn recovery(offer: f64) -> Scenario {
    let mut scenario = cpu(10.0, offer);
    let usual = 0.7 * capacity(&scenario);
    scenario.streams[0].rate.push((WARM + 10.0, usual));
    scenario.length = WARM + 20.0;
    scenario
}

/// 70 % of capacity, and each second one of four instances is killed.
pub(crate) fn kills(offer: f64) -> Scenario {
    let mut scenario = cpu(0.7, offer);
    scenario.kill = Some((WARM, 1.0));
    scenario.length = WARM + 20.0;
    // As long as the manifest's default for requests that is ordinary.
    scenario.deadline = 1.0;
    scenario
}

/// 80 % of capacity; for five seconds half of all attempts break, and every caller tries three times more, at once.
pub(crate) fn storm(offer: f64) -> Scenario {
    let mut scenario = cpu(0.8, offer);
    scenario.streams[0].retries = 3;
    scenario.streams[0].rate = vec![(0.0, 0.8 * capacity(&scenario))];
    scenario.breaks = Some((WARM, WARM + 5.0, 0.5));
    scenario.length = WARM + 15.0;
    scenario
}

/// 80 % of capacity, three times of it for three seconds; every caller tries three times more, at once.
pub(crate) fn spike(offer: f64) -> Scenario {
    let mut scenario = storm(offer);
    let capacity = capacity(&scenario);
    scenario.breaks = None;
    scenario.streams[0]
        .rate
        .extend([(WARM, 3.0 * capacity), (WARM + 3.0, 0.8 * capacity)]);
    scenario
}

/// Nothing runs, and the first request comes.
pub(crate) fn zero_to_one(offer: f64) -> Scenario {
    Scenario {
        instances: 0,
        most_instances: 1,
        streams: vec![Stream {
            class: Class::Degraded,
            rate: vec![(1.0, 50.0)],
            retries: 0,
        }],
        length: 10.0,
        deadline: 5.0,
        ..host(offer)
    }
}

/// One instance that takes one request at a time, and then work for fifty.
pub(crate) fn one_to_fifty(offer: f64) -> Scenario {
    Scenario {
        cpu: 0.002,
        io: vec![(0.0, 0.4)],
        concurrency: 1,
        instances: 1,
        most_instances: 64,
        deadline: 5.0,
        streams: vec![Stream {
            class: Class::Degraded,
            rate: vec![(0.0, 1.0), (WARM, 100.0)],
            retries: 0,
        }],
        ..host(offer)
    }
}

/// 60 % of capacity; each three seconds an instance is replaced, and a new one needs four times the CPU for one second.
pub(crate) fn slow_start(offer: f64) -> Scenario {
    let mut scenario = cpu(0.6, offer);
    scenario.streams[0].rate = vec![(0.0, 0.6 * capacity(&scenario))];
    scenario.kill = Some((WARM, 3.0));
    scenario.slow_start = Some((1.0, 4.0));
    scenario.deadline = 1.0;
    scenario.length = 25.0;
    scenario
}

/// Twice the capacity for three minutes: what a limiter remembers must not drift.
pub(crate) fn long(offer: f64) -> Scenario {
    let mut scenario = cpu(2.0, offer);
    scenario.length = WARM + 180.0;
    scenario
}
