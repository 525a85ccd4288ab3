//! One function on one host, event by event: callers that do not wait for each other, admission, instances, processor sharing.
//! Nothing here decides who may pass; that is [`Front`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use funcd::admission::budget::{Attempt, Failure};
use funcd::admission::class::Ranks;
use funcd::admission::gate::{Offer, Verdicts};
use funcd::admission::limit::Places;
use funcd::admission::queue::TicketId;
use funcd::admission::{Outcome, State};
use funcd::function::demand::Demand;
use funcd::function::scale;

use super::chance::Chance;
use super::cores::Cores;
use super::front::{Ask, Choice, Front};
use super::script::{Books, Fate, Scenario};

#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    Arrival(usize),
    /// A caller tries again.
    Again(usize),
    Io(usize, u32),
    Deadline(usize),
    Until(usize, TicketId),
    Ready(usize),
    Kill,
    Bin,
    Tick,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    Out,
    Waits(TicketId),
    /// On the CPU, with that many turns of it left; the second is after the I/O.
    Cpu(u32),
    Io,
}

#[derive(Debug)]
struct Request {
    stream: usize,
    rank: u8,
    sent: f64,
    arrived: f64,
    deadline: f64,
    stage: Stage,
    instance: usize,
    dispatched: f64,
    generation: u32,
    /// By funcd, and by the caller.
    retries: [u32; 2],
    /// The caller has its answer, or has left.
    is_over: bool,
    /// Its place was given back when its caller left.
    is_unseen: bool,
}

#[derive(Debug)]
struct Instance {
    began: f64,
    in_flight: u32,
    ready: bool,
}

pub(crate) struct World<'a> {
    scenario: &'a Scenario,
    front: Front,
    chance: Chance,
    ranks: Ranks,
    cores: Cores,
    now: f64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    what: Vec<At>,
    requests: Vec<Request>,
    instances: Vec<Instance>,
    starting: u32,
    offered: u32,
    books: Books,
    killed: usize,
    /// Utilisation when it was looked at last.
    told: f64,
}

fn value(steps: &[(f64, f64)], now: f64) -> f64 {
    steps
        .iter()
        .rev()
        .find(|(from, _)| *from <= now)
        .map_or(0.0, |step| step.1)
}

/// How often the supervisor's own use of the CPU is looked at, in seconds.
const BIN: f64 = 0.01;

impl<'a> World<'a> {
    /// Runs the scenario.
    pub(crate) fn run(scenario: &'a Scenario, choice: Choice, seed: u64) -> Books {
        let instance = || Instance {
            began: -1e9,
            in_flight: 0,
            ready: true,
        };
        let mut world = World {
            scenario,
            front: Front::new(choice, scenario.cores, state(scenario, scenario.instances, 0)),
            chance: Chance::new(seed),
            ranks: Ranks::new(std::time::Instant::now(), seed),
            cores: Cores::new(scenario.cores),
            now: 0.0,
            events: BinaryHeap::new(),
            what: Vec::new(),
            requests: Vec::new(),
            instances: (0..scenario.instances).map(|_| instance()).collect(),
            starting: 0,
            offered: 0,
            books: Books::default(),
            killed: 0,
            told: 0.0,
        };
        for stream in 0..scenario.streams.len() {
            world.next_arrival(stream);
        }
        if let Some((from, _)) = scenario.kill {
            world.at(from, At::Kill);
        }
        world.at(BIN, At::Bin);
        world.at(0.1, At::Tick);
        world.go();
        world.books
    }

    fn at(&mut self, time: f64, what: At) {
        // Whole nanoseconds, so that the order is total.
        let nanos = (time.max(self.now) * 1e9).round() as u64;
        self.events.push(Reverse((nanos, self.what.len() as u64)));
        self.what.push(what);
    }

    fn go(&mut self) {
        let end = self.scenario.length + 2.0 * self.scenario.deadline + 1.0;
        while let Some(&Reverse((nanos, _))) = self.events.peek() {
            let next = nanos as f64 / 1e9;
            if let Some(done) = self.cores.next().filter(|&done| done <= next) {
                self.now = done.max(self.now);
                self.cores.advance(self.now);
                if let Some((request, generation)) = self.cores.pop() {
                    self.computed(request, generation);
                }
                continue;
            }
            if next > end {
                break;
            }
            self.now = next.max(self.now);
            self.cores.advance(self.now);
            if let Some(Reverse((_, index))) = self.events.pop() {
                self.happen(self.what[index as usize]);
            }
        }
    }

    fn happen(&mut self, what: At) {
        match what {
            At::Arrival(stream) => {
                self.next_arrival(stream);
                let request = self.requests.len();
                let caller = self.chance.below(1000);
                let rank = self.ranks.rank(caller, std::time::Instant::now());
                self.requests.push(Request {
                    stream,
                    rank,
                    sent: self.now,
                    arrived: self.now,
                    deadline: 0.0,
                    stage: Stage::Out,
                    instance: 0,
                    dispatched: 0.0,
                    generation: 0,
                    retries: [0; 2],
                    is_over: false,
                    is_unseen: false,
                });
                self.arrive(request);
            }
            At::Again(request) => self.arrive(request),
            At::Io(request, generation) => {
                if self.requests[request].generation == generation {
                    self.compute(request, 0);
                }
            }
            At::Deadline(request) => self.deadline(request),
            At::Until(request, ticket) => {
                if self.requests[request].stage == Stage::Waits(ticket) && self.front.cancel(ticket, self.now)
                {
                    self.requests[request].stage = Stage::Out;
                    self.refused(request, "waited");
                }
            }
            At::Ready(instance) => {
                self.instances[instance].ready = true;
                self.instances[instance].began = self.now;
                self.starting -= 1;
                self.places();
            }
            At::Kill => self.kill(),
            At::Bin => {
                self.cores
                    .take(f64::from(self.offered) * self.scenario.offer / BIN);
                self.offered = 0;
                self.at(self.now + BIN, At::Bin);
            }
            At::Tick => {
                let used = self.cores.used() / 0.1 / self.scenario.cores;
                let utilisation = match self.scenario.is_late {
                    true => std::mem::replace(&mut self.told, used),
                    false => used,
                };
                let mut told = Vec::new();
                self.front.tick(utilisation, self.now, &mut told);
                self.tell(told);
                self.books.limits.push((self.now, f64::from(self.front.limit())));
                self.at(self.now + 0.1, At::Tick);
            }
        }
    }

    fn next_arrival(&mut self, stream: usize) {
        let steps = &self.scenario.streams[stream].rate;
        let mut from = self.now;
        // A new step begins anew: the process has no memory.
        let time = loop {
            let rate = value(steps, from);
            let next_step = steps.iter().map(|step| step.0).find(|&step| step > from);
            let time = if rate > 0.0 {
                from + self.chance.until_next(rate)
            } else {
                f64::INFINITY
            };
            match next_step {
                Some(step) if time > step => from = step,
                _ => break time,
            }
        };
        if time < self.scenario.length {
            self.at(time, At::Arrival(stream));
        }
    }

    /// It is sent, the first time or again by its caller.
    fn arrive(&mut self, request: usize) {
        let deadline = self.now + self.scenario.deadline;
        self.books.offered += 1;
        let this = &mut self.requests[request];
        (this.arrived, this.deadline, this.is_over, this.retries[0]) = (self.now, deadline, false, 0);
        self.at(deadline, At::Deadline(request));
        self.offer(request);
    }

    fn offer(&mut self, request: usize) {
        self.offered += 1;
        let this = &self.requests[request];
        let ask = Ask {
            who: request,
            class: self.scenario.streams[this.stream].class,
            rank: this.rank,
            arrived: this.arrived,
            deadline: this.deadline,
        };
        let mut told = Vec::new();
        match self.front.offer(&ask, self.now, &mut self.chance, &mut told) {
            Offer::Go => self.dispatch(request),
            Offer::Wait {
                ticket,
                wants_place,
                until,
            } => {
                self.requests[request].stage = Stage::Waits(ticket);
                let until = self.front.until(until);
                self.at(until, At::Until(request, ticket));
                if wants_place {
                    self.scale();
                }
            }
            Offer::Shed(reason) => self.refused(request, reason.name()),
        }
        self.tell(told);
    }

    fn tell(&mut self, mut told: Verdicts<usize>) {
        while let Some((request, verdict)) = told.pop() {
            self.requests[request].stage = Stage::Out;
            match verdict {
                Ok(()) => self.dispatch(request),
                Err(reason) => self.refused(request, reason.name()),
            }
        }
    }

    /// It goes to the instance with the fewest in flight.
    fn dispatch(&mut self, request: usize) {
        let ready = self
            .instances
            .iter()
            .enumerate()
            .filter(|(_, instance)| instance.ready);
        let Some((instance, _)) = ready.min_by_key(|(_, instance)| instance.in_flight) else {
            // The last one was killed just now.
            self.release();
            return self.refused(request, "no-instance");
        };
        self.instances[instance].in_flight += 1;
        self.books.dispatched += 1;
        let this = &mut self.requests[request];
        (this.instance, this.dispatched) = (instance, self.now);
        this.generation += 1;
        if let Some((from, until, part)) = self.scenario.breaks
            && (from..until).contains(&self.now)
            && self.chance.unit() < part
        {
            self.instances[instance].in_flight -= 1;
            return self.broke(request);
        }
        self.compute(request, 1);
    }

    fn compute(&mut self, request: usize, turns_left: u32) {
        let this = &mut self.requests[request];
        this.stage = Stage::Cpu(turns_left);
        let age = self.now - self.instances[this.instance].began;
        let slower = match self.scenario.slow_start {
            Some((for_, times)) if age < for_ => times,
            _ => 1.0,
        };
        // The same request each time it is tried.
        let heavier = match self.scenario.rare {
            Some((part, times)) => {
                let usual = 1.0 / (1.0 - part + part * times);
                let is_rare = (request as f64 * 0.618_033_988_749_895).fract() < part;
                if is_rare { usual * times } else { usual }
            }
            None => 1.0,
        };
        let work = self.chance.around(self.scenario.cpu / 2.0 * slower * heavier);
        self.cores.begin(request, this.generation, work);
    }

    /// Its turn on the CPU is over.
    fn computed(&mut self, request: usize, generation: u32) {
        let this = &mut self.requests[request];
        if this.generation != generation {
            return;
        }
        self.cores.done();
        if this.stage == Stage::Cpu(1) {
            this.stage = Stage::Io;
            let io = value(&self.scenario.io, self.now);
            let io = if io > 0.0 { self.chance.around(io) } else { 0.0 };
            self.at(self.now + io, At::Io(request, generation));
            return;
        }
        self.instances[this.instance].in_flight -= 1;
        let latency = self.now - this.dispatched;
        this.stage = Stage::Out;
        if this.is_unseen {
            return;
        }
        if !this.is_over {
            self.over(request, true);
            self.front
                .ended(Outcome::Answered, latency, self.now, &mut self.chance);
        }
        self.release();
    }

    fn release(&mut self) {
        let mut told = Vec::new();
        self.front.release(self.now, &mut told);
        self.tell(told);
    }

    fn deadline(&mut self, request: usize) {
        let this = &self.requests[request];
        if this.is_over || this.deadline > self.now + 1e-6 {
            return;
        }
        match this.stage {
            Stage::Waits(ticket) => {
                if self.front.cancel(ticket, self.now) {
                    self.requests[request].stage = Stage::Out;
                    self.refused(request, "deadline");
                }
            }
            // Its instance goes on with it.
            Stage::Cpu(_) | Stage::Io => {
                let latency = self.now - this.dispatched;
                let outcome = match self.scenario.leaves {
                    true => Outcome::Abandoned,
                    false => Outcome::Dropped,
                };
                self.front.ended(outcome, latency, self.now, &mut self.chance);
                self.again_elsewhere(request);
                if self.scenario.leaves {
                    self.requests[request].is_unseen = true;
                    self.release();
                }
            }
            Stage::Out => {}
        }
    }

    /// funcd has no answer for it: its caller may try again.
    fn refused(&mut self, request: usize, reason: &'static str) {
        *self.books.refused.entry(reason).or_default() += 1;
        let this = &mut self.requests[request];
        if this.retries[1] < self.scenario.streams[this.stream].retries {
            this.retries[1] += 1;
            this.is_over = true;
            let pause = 0.1 * self.chance.unit();
            self.at(self.now + pause, At::Again(request));
        } else {
            self.over(request, false);
        }
    }

    /// Its caller left, and the instance goes on: what the caller sends next is another request for the same thing.
    fn again_elsewhere(&mut self, request: usize) {
        let this = &mut self.requests[request];
        if this.retries[1] >= self.scenario.streams[this.stream].retries {
            return self.over(request, false);
        }
        this.is_over = true;
        let again = Request {
            stream: this.stream,
            rank: this.rank,
            sent: this.sent,
            arrived: self.now,
            deadline: 0.0,
            stage: Stage::Out,
            instance: 0,
            dispatched: 0.0,
            generation: 0,
            retries: [0, this.retries[1] + 1],
            is_over: true,
            is_unseen: false,
        };
        self.requests.push(again);
        let pause = 0.1 * self.chance.unit();
        self.at(self.now + pause, At::Again(self.requests.len() - 1));
    }

    fn over(&mut self, request: usize, answered: bool) {
        let this = &mut self.requests[request];
        if std::mem::replace(&mut this.is_over, true) {
            return;
        }
        self.books.fates.push(Fate {
            class: self.scenario.streams[this.stream].class,
            sent: this.sent,
            answered: answered.then_some(self.now - this.sent),
        });
    }

    /// An attempt ended without a response head.
    fn broke(&mut self, request: usize) {
        let this = &mut self.requests[request];
        this.generation += 1;
        this.stage = Stage::Out;
        let attempt = Attempt {
            method: &http::Method::GET,
            has_key: false,
            opted_in: false,
            has_body_at_hand: true,
            retries: this.retries[0],
        };
        let (is_over, latency) = (this.is_over, self.now - this.dispatched);
        this.retries[0] += 1;
        self.front
            .ended(Outcome::Failed, latency, self.now, &mut self.chance);
        let again = !is_over && attempt.may_retry(Failure::NoHead) && self.front.may_retry(self.now);
        self.release();
        if again {
            self.offer(request);
        } else if !is_over {
            self.refused(request, "broke");
        }
    }

    fn kill(&mut self) {
        if let Some((_, every)) = self.scenario.kill {
            self.at(self.now + every, At::Kill);
        }
        let ready: Vec<usize> = (0..self.instances.len())
            .filter(|&i| self.instances[i].ready)
            .collect();
        if ready.is_empty() || self.now > self.scenario.length {
            return;
        }
        let victim = ready[self.killed % ready.len()];
        self.killed += 1;
        self.instances[victim].ready = false;
        self.instances[victim].in_flight = 0;
        self.starting += 1;
        self.at(self.now + self.scenario.start, At::Ready(victim));
        self.places();
        let lost: Vec<usize> = (0..self.requests.len())
            .filter(|&i| {
                let request = &self.requests[i];
                request.instance == victim && matches!(request.stage, Stage::Cpu(_) | Stage::Io)
            })
            .collect();
        for request in lost {
            if let Stage::Cpu(_) = self.requests[request].stage {
                self.cores.abandon();
            }
            self.broke(request);
        }
    }

    /// A request found no place: are more instances needed?
    fn scale(&mut self) {
        let asked = funcd::catalog::manifest::Scale {
            min: 0,
            max: self.scenario.most_instances,
            concurrency: self.scenario.concurrency,
            idle: Duration::from_secs(60),
            prewarm: 0,
            freeze: None,
        };
        let ready = self.instances.iter().filter(|instance| instance.ready).count();
        let there = ready + self.starting as usize;
        // The request that is offered just now does not count as waiting yet when it is the first.
        let places = scale::Places {
            awake: there,
            frozen: 0,
        };
        // What is started at once: the means of the last minute, which would start more, are not simulated.
        let (demand, now) = (&mut Demand::default(), std::time::Instant::now());
        let missing = scale::plan(&asked, demand, self.front.demand().max(1), places, now).start;
        for _ in 0..missing {
            self.instances.push(Instance {
                began: self.now,
                in_flight: 0,
                ready: false,
            });
            self.starting += 1;
            self.books.starts += 1;
            // A message to control, and one to the launcher.
            let ordered = self.now + 0.001;
            self.books.decision = self.books.decision.max(ordered - self.now);
            self.at(ordered + self.scenario.start, At::Ready(self.instances.len() - 1));
        }
        if missing > 0 {
            self.places();
        }
    }

    fn places(&mut self) {
        let ready = self.instances.iter().filter(|instance| instance.ready).count() as u32;
        let state = state(self.scenario, ready, self.starting);
        let mut told = Vec::new();
        self.front.set_places(state, self.now, &mut told);
        self.tell(told);
    }
}

/// What control would say.
fn state(scenario: &Scenario, ready: u32, starting: u32) -> State {
    State {
        places: Places {
            ready,
            concurrency: scenario.concurrency,
        },
        leaving: 0,
        most_places: scenario.concurrency * scenario.most_instances,
        cold_start: (starting > 0).then(|| Duration::from_secs_f64(scenario.start)),
        timeout: Duration::from_secs_f64(scenario.deadline),
        threshold: 100,
    }
}
