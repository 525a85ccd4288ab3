//! How many more instances the host has room for: pure, the host's facts are arguments. More processes add no CPU: a function
//! whose instances compete for one that is used up gets no more of them, one whose instances wait for something else does.

/// What the host has left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HostFacts {
    /// Cores.
    pub cores: f64,
    /// The share of all cores that was idle lately, 0 to 1.
    pub cpu_idle: f64,
    /// Memory that can be had without swapping, in bytes, less what was started since that was read.
    pub memory_available: u64,
    /// All of it, in bytes.
    pub memory_total: u64,
    /// It is short of something, and adds no instances until it is not.
    pub brownout: bool,
}

impl HostFacts {
    /// As long as nothing is known, nothing is held back.
    pub const UNKNOWN: HostFacts = HostFacts {
        cores: 1.0,
        cpu_idle: 1.0,
        memory_available: u64::MAX,
        memory_total: 0,
        brownout: false,
    };
}

/// What a function's instances use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Appetite {
    /// How many there are.
    pub instances: usize,
    /// Cores that one uses, on average; 0 while that is not known.
    pub cpu: f64,
    /// Cores that one may use.
    pub cpu_limit: f64,
    /// What another one is expected to use, in bytes.
    pub memory: u64,
}

/// Why there is no room for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The host's CPU is used up, and its instances compete for it.
    Cpu,
    /// It would not fit into the host's memory.
    Memory,
    /// The host is in a brownout: [`crate::admission::brownout`].
    Brownout,
}

impl Held {
    /// The label in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Held::Cpu => "cpu",
            Held::Memory => "memory",
            Held::Brownout => "brownout",
        }
    }
}

/// Less than this share of idle CPU is none.
const IDLE: f64 = 0.1;
/// An instance that uses less of a core than this waits for something else than CPU.
const WAITING: f64 = 0.25;
/// One that uses more of what it may use than this is saturated.
const SATURATED: f64 = 0.9;
/// This part of the host's memory stays free.
const RESERVE: u64 = 20;

/// How many of `wanted` instances there is room for, and why not for all. What is needed to answer at all (the first
/// instance, and the minimum) is not asked of this.
pub fn room(host: &HostFacts, appetite: &Appetite, wanted: usize) -> (usize, Option<Held>) {
    if host.brownout {
        return (0, Some(Held::Brownout));
    }
    if !has_cpu(host, appetite) {
        return (0, Some(Held::Cpu));
    }
    let free = host.memory_available.saturating_sub(host.memory_total / RESERVE);
    let fit = usize::try_from(free / appetite.memory.max(1)).unwrap_or(usize::MAX);
    match fit < wanted {
        true => (fit, Some(Held::Memory)),
        false => (wanted, None),
    }
}

fn has_cpu(host: &HostFacts, appetite: &Appetite) -> bool {
    if host.cpu_idle >= IDLE || appetite.cpu < WAITING {
        return true;
    }
    // One that is bound to a core gets a fair share of another one, as long as there is another.
    let most = appetite.cpu_limit.min(1.0);
    appetite.cpu >= SATURATED * most && (appetite.instances as f64) < host.cores
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;
    const HOST: HostFacts = HostFacts {
        cores: 4.0,
        cpu_idle: 0.5,
        memory_available: 4 * GIB,
        memory_total: 8 * GIB,
        brownout: false,
    };
    const BUSY: HostFacts = HostFacts {
        cpu_idle: 0.01,
        ..HOST
    };
    const HUNGRY: Appetite = Appetite {
        instances: 2,
        cpu: 0.6,
        cpu_limit: 1.0,
        memory: GIB,
    };

    #[test]
    fn while_the_host_has_cpu_and_memory_all_fit() {
        assert_eq!(room(&HOST, &HUNGRY, 3), (3, None));
        assert_eq!(room(&HostFacts::UNKNOWN, &HUNGRY, 100), (100, None));
    }

    #[test]
    fn who_competes_for_cpu_that_is_used_up_gets_no_more() {
        assert_eq!(room(&BUSY, &HUNGRY, 3), (0, Some(Held::Cpu)));
        let waits = Appetite { cpu: 0.1, ..HUNGRY };
        assert_eq!(
            room(&BUSY, &waits, 3),
            (3, None),
            "it waits for something else than CPU"
        );
    }

    #[test]
    fn who_is_bound_to_one_core_gets_another_as_long_as_there_is_one() {
        let bound = Appetite { cpu: 0.97, ..HUNGRY };
        assert_eq!(room(&BUSY, &bound, 1), (1, None));
        let everywhere = Appetite {
            instances: 4,
            ..bound
        };
        assert_eq!(room(&BUSY, &everywhere, 1), (0, Some(Held::Cpu)));
        let limited = Appetite {
            cpu: 0.48,
            cpu_limit: 0.5,
            ..HUNGRY
        };
        assert_eq!(
            room(&BUSY, &limited, 1),
            (1, None),
            "saturated is by what it may use"
        );
    }

    #[test]
    fn what_does_not_fit_into_memory_is_not_started() {
        assert_eq!(
            room(&HOST, &HUNGRY, 9),
            (3, Some(Held::Memory)),
            "a twentieth stays free"
        );
        let none = HostFacts {
            memory_available: GIB / 8,
            ..HOST
        };
        assert_eq!(room(&none, &HUNGRY, 1), (0, Some(Held::Memory)));
    }

    #[test]
    fn a_host_in_a_brownout_adds_none() {
        let short = HostFacts {
            brownout: true,
            ..HOST
        };
        assert_eq!(room(&short, &HUNGRY, 1), (0, Some(Held::Brownout)));
    }

    proptest! {
        #[test]
        fn never_more_than_wanted_and_a_reason_for_each_that_is_not(
            idle in 0.0..1.0, cpu in 0.0..2.0, available in any::<u64>(), memory in any::<u64>(), wanted in 0..100_usize,
        ) {
            let host = HostFacts { cpu_idle: idle, memory_available: available, ..HOST };
            let (room, held) = super::room(&host, &Appetite { cpu, memory, ..HUNGRY }, wanted);
            prop_assert!(room <= wanted);
            prop_assert_eq!(room < wanted, held.is_some() && wanted > 0);
        }
    }
}
