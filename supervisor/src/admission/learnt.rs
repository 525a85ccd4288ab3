//! What a function's answers have taught: the part of admission that changes a few times a second. Never on the path of a request.

use std::time::{Duration, Instant};

use super::breaker::Proportional;
use super::budget::Budget;
use super::gate::Setting;
use super::limit::{Limit, Window};
use super::queue::Conditions;
use super::{Parts, State};

/// What changes a few times a second, under a lock.
#[derive(Debug)]
pub(super) struct Learnt {
    pub(super) parts: Parts,
    pub(super) cores: f64,
    pub(super) limit: Limit,
    pub(super) state: State,
    pub(super) breaker: Proportional,
    pub(super) budget: Budget,
    pub(super) p50: Option<Duration>,
    /// How many a second it can answer: known while it is saturated.
    pub(super) rate: Option<f64>,
    pub(super) window_began: Instant,
    /// When its CPU was what is short.
    short_at: Option<Instant>,
    /// What the breaker was told.
    pub(super) told: [u64; 3],
}

impl Learnt {
    /// How much of the newest rate goes into the mean.
    const RATE_WEIGHT: f64 = 0.3;

    /// Of a function of which nothing is known yet.
    pub(super) fn new(parts: Parts, cores: f64, state: State, now: Instant) -> Learnt {
        Learnt {
            parts,
            cores,
            limit: match (parts.gate, parts.room) {
                (true, true) => Limit::new(cores, now),
                (true, false) => Limit::without_room(cores, now),
                (false, _) => Limit::without_gate(cores, now),
            },
            state,
            breaker: Proportional::default(),
            budget: Budget::new(0, now),
            p50: None,
            rate: None,
            window_began: now,
            short_at: None,
            told: [0; 3],
        }
    }

    /// Takes the utilisation of its CPU since the last look, if it is known, and how many are in flight.
    pub(super) fn look(&mut self, utilisation: Option<f64>, in_flight: u32, now: Instant) {
        match utilisation {
            Some(utilisation) => {
                self.limit.utilisation(utilisation);
                if utilisation >= Limit::SATURATED {
                    self.short_at = Some(now);
                }
            }
            None => self.limit.utilisation_unknown(),
        }
        self.limit.look(in_flight);
    }

    /// Whether its CPU was short while what ends now was in flight.
    pub(super) fn was_short(&self, now: Instant) -> bool {
        let within = self.state.timeout + Limit::LONGEST;
        self.short_at
            .is_some_and(|at| now.saturating_duration_since(at) <= within)
    }

    /// Learns from a window; `limit` is what held in it.
    pub(super) fn close(&mut self, window: &Window, limit: u32, now: Instant) {
        let age = now
            .saturating_duration_since(self.window_began)
            .as_secs_f64()
            .max(1e-3);
        self.window_began = now;
        self.limit.close(window, self.state.places, now);
        self.p50 = window.p50;
        // What leaves a function that has room says nothing about what could.
        if window.max_in_flight >= limit && window.samples > 0 {
            let rate = window.samples as f64 / age;
            let before = self.rate.unwrap_or(rate);
            self.rate = Some(before + Self::RATE_WEIGHT * (rate - before));
        } else {
            self.rate = None;
        }
    }

    /// How the gate is to be set.
    pub(super) fn setting(&self) -> Setting {
        let State {
            places,
            cold_start,
            leaving,
            ..
        } = self.state;
        let limit = match self.parts.limit {
            true => self.limit.now(places),
            false => places.total(),
        };
        // With another instance it will be faster.
        let rate = self.rate.filter(|_| cold_start.is_none());
        let bound = self
            .parts
            .bound
            .unwrap_or_else(|| Conditions::bound(self.state.most_places, rate, self.p50, self.state.timeout));
        // A burst that is let in by and by is not overload: the second look knows what it costs.
        let opens = self.parts.limit && limit < places.total() && self.limit.opens();
        let cold_start = match (places.ready, cold_start) {
            // Without any instance there is nothing to wait for but the start.
            (0, Some(_)) => Some(self.state.timeout),
            (_, measured) => measured.max(opens.then_some(2 * Limit::SHORTEST)),
        };
        Setting {
            limit: limit.saturating_add(leaving),
            places: places.total().saturating_add(leaving),
            threshold: self.state.threshold,
            conditions: Conditions {
                bound,
                p50: self.p50.filter(|_| self.parts.deadlines),
                rate: rate.filter(|_| self.parts.deadlines),
                cold_start,
            },
        }
    }
}
