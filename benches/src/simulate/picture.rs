//! Pictures of the scenarios, as SVG: goodput and p99 over the offered load, or over time where the load is not what changes.

use std::fmt::Write as _;
use std::path::Path;

use super::comparison::Family;
use super::front::Choice;
use super::measure::{Stretch, goodput, p99};
use super::published::Published;
use super::scenarios::{self as scenario, WARM, capacity};
use super::script::Scenario;
use super::world::World;
use crate::failure::{During, Outcome};

/// A line: its name and its points.
type Line = (&'static str, Vec<(f64, f64)>);

struct Panel {
    title: String,
    lines: Vec<Line>,
    /// Of the values: as they are, or their logarithm.
    log: bool,
}

const COLOURS: [&str; 7] = [
    "#0b6e4f", "#c0392b", "#2c5f9e", "#8e44ad", "#d68910", "#566573", "#17a2b8",
];
const CHOICES: [Choice; 7] = [
    Choice::Funcd,
    Choice::Fifo500,
    Choice::NoGate,
    Choice::Other(Published::Vegas),
    Choice::Other(Published::Gradient2),
    Choice::Other(Published::Aimd),
    Choice::Other(Published::Envoy),
];
const LOADS: [f64; 9] = [0.5, 0.7, 0.9, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0];
/// Width and height of a panel, and the space around it.
const SIZE: (f64, f64) = (640.0, 240.0);
const SPACE: (f64, f64) = (60.0, 40.0);

/// Writes one file for each scenario.
pub(crate) fn write_all(folder: &Path, offer: f64, only: Option<&str>) -> Outcome<()> {
    std::fs::create_dir_all(folder).during(folder.display())?;
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    let by_load: [(&str, Family); 5] = [
        ("cpu", scenario::cpu),
        ("io", scenario::io),
        ("classes", scenario::classes),
        ("heavy", scenario::heavy),
        ("bimodal", scenario::bimodal),
    ];
    for (name, family) in by_load {
        if wanted(name) {
            write(folder, name, &over_load(name, family, offer))?;
        }
    }
    let by_time: [(&str, Scenario); 9] = [
        ("bulk", scenario::bulk(offer)),
        ("dependency", scenario::dependency(offer)),
        ("recovery", scenario::recovery(offer)),
        ("storm", scenario::storm(offer)),
        ("kills", scenario::kills(offer)),
        ("scale-0-1", scenario::zero_to_one(offer)),
        ("scale-1-50", scenario::one_to_fifty(offer)),
        ("slow-start", scenario::slow_start(offer)),
        ("long", scenario::long(offer)),
    ];
    for (name, scenario) in by_time {
        if only.is_none_or(|only| name.starts_with(only)) {
            write(folder, name, &over_time(name, &scenario))?;
        }
    }
    Ok(())
}

fn write(folder: &Path, name: &str, svg: &str) -> Outcome<()> {
    let file = folder.join(format!("{name}.svg"));
    std::fs::write(&file, svg).during(file.display())
}

fn over_load(name: &str, family: Family, offer: f64) -> String {
    let (mut good, mut slow) = (Vec::new(), Vec::new());
    for choice in CHOICES {
        let at = |times: f64| {
            let scenario = family(times, offer);
            let books = World::run(&scenario, choice, 1);
            let stretch = Stretch {
                from: WARM,
                to: scenario.length,
            };
            let part = goodput(&books, stretch) / capacity(&scenario);
            ((times, part), (times, 1e3 * p99(&books, stretch)))
        };
        let (a, b) = LOADS.into_iter().map(at).unzip();
        good.push((choice.name(), a));
        slow.push((choice.name(), b));
    }
    draw(
        "offered load ÷ capacity",
        &[
            Panel {
                title: format!("{name}: goodput ÷ capacity"),
                lines: good,
                log: false,
            },
            Panel {
                title: format!("{name}: p99 of what was answered, ms"),
                lines: slow,
                log: true,
            },
        ],
    )
}

fn over_time(name: &str, scenario: &Scenario) -> String {
    let (mut good, mut slow, mut limits) = (Vec::new(), Vec::new(), Vec::new());
    let width = (scenario.length / 60.0).max(0.25);
    for choice in CHOICES {
        let books = World::run(scenario, choice, 1);
        let stretches = (0..(scenario.length / width) as u32).map(|n| Stretch {
            from: f64::from(n) * width,
            to: f64::from(n + 1) * width,
        });
        let (a, b) = stretches
            .map(|stretch| {
                let at = stretch.from;
                ((at, goodput(&books, stretch)), (at, 1e3 * p99(&books, stretch)))
            })
            .unzip();
        good.push((choice.name(), a));
        slow.push((choice.name(), b));
        limits.push((choice.name(), books.limits));
    }
    draw(
        "seconds",
        &[
            Panel {
                title: format!("{name}: answered in time, a second"),
                lines: good,
                log: false,
            },
            Panel {
                title: format!("{name}: p99 of what was answered, ms"),
                lines: slow,
                log: true,
            },
            Panel {
                title: format!("{name}: limit"),
                lines: limits,
                log: true,
            },
        ],
    )
}

fn draw(x_title: &str, panels: &[Panel]) -> String {
    let height = panels.len() as f64 * (SIZE.1 + 2.0 * SPACE.1) + 20.0;
    let width = SIZE.0 + 2.0 * SPACE.0 + 180.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (n, panel) in panels.iter().enumerate() {
        let top = n as f64 * (SIZE.1 + 2.0 * SPACE.1) + SPACE.1;
        one(&mut svg, panel, top, x_title);
    }
    svg.push_str("</svg>\n");
    svg
}

fn one(svg: &mut String, panel: &Panel, top: f64, x_title: &str) {
    let points = || {
        panel
            .lines
            .iter()
            .flat_map(|line| &line.1)
            .filter(|point| point.1.is_finite())
    };
    let scale = |value: f64| if panel.log { value.max(0.1).log10() } else { value };
    let (left, right) = points().fold((f64::INFINITY, 0.0_f64), |(a, b), p| (a.min(p.0), b.max(p.0)));
    let high = points().map(|p| scale(p.1)).fold(f64::NEG_INFINITY, f64::max) * 1.05;
    let low = if panel.log {
        points().map(|p| scale(p.1)).fold(f64::INFINITY, f64::min)
    } else {
        0.0
    };
    let x = |value: f64| SPACE.0 + (value - left) / (right - left).max(1e-9) * SIZE.0;
    let y = |value: f64| top + SIZE.1 - (scale(value) - low) / (high - low).max(1e-9) * SIZE.1;
    let (bottom, far) = (top + SIZE.1, SPACE.0 + SIZE.0);
    let mut line = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    line(format!(
        "<text x=\"{}\" y=\"{}\" font-weight=\"bold\">{}</text>",
        SPACE.0,
        top - 12.0,
        panel.title
    ));
    line(format!(
        "<path d=\"M{0} {top}V{bottom}H{far}\" fill=\"none\" stroke=\"#333\"/>",
        SPACE.0
    ));
    for n in 0..=5 {
        let part = f64::from(n) / 5.0;
        let (at, value) = (left + part * (right - left), low + part * (high - low));
        let value = if panel.log { 10_f64.powf(value) } else { value };
        let (px, py) = (x(at), y(value));
        line(format!(
            "<text x=\"{px}\" y=\"{}\" text-anchor=\"middle\">{at:.1}</text>",
            bottom + 16.0
        ));
        line(format!("<path d=\"M{} {py}H{far}\" stroke=\"#ddd\"/>", SPACE.0));
        let decimals = if value >= 100.0 { 0 } else { 2 };
        line(format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{value:.decimals$}</text>",
            SPACE.0 - 6.0,
            py + 4.0
        ));
    }
    line(format!(
        "<text x=\"{far}\" y=\"{}\" text-anchor=\"end\">{x_title}</text>",
        bottom + 32.0
    ));
    for (n, (name, values)) in panel.lines.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let mut points = String::new();
        for (at, value) in values.iter().filter(|point| point.1.is_finite()) {
            let _ = write!(points, "{:.1},{:.1} ", x(*at), y(*value));
        }
        let thick = if n == 0 { 3.0 } else { 1.5 };
        line(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{thick}\"/>",
            points.trim_end()
        ));
        let (px, py) = (far + 12.0, top + 16.0 * n as f64 + 8.0);
        line(format!(
            "<text x=\"{px}\" y=\"{py}\" fill=\"{colour}\">{name}</text>"
        ));
    }
}
