//! Starts real confined processes and asks them what they can do: `payload.c` tells, one fact a line.
//!
//! One binary with a `main` of its own, as some stories need a process with a single thread and another identity: they run
//! this binary again with `FUNCD_TEST_ROLE`. Without root, what needs it is printed as skipped.
#![allow(clippy::unwrap_used, reason = "tests")]

mod reach;
mod roles;
mod self_check;
mod start;
mod starts;

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    match std::env::var("FUNCD_TEST_ROLE").as_deref() {
        _ if std::env::args().nth(1).as_deref() == Some(funcd_sandbox::self_check::ROLE) => {
            self_check::attack()
        }
        Ok("start") => return roles::start(),
        Ok("own") => return roles::own(),
        Ok("half") => return roles::half(),
        Ok("crowded") => return roles::crowded(),
        _ => {}
    }
    let mut args = Arguments::from_args();
    // One after the other: a fork of one story would hold what another one has open for writing, and is about to execute.
    args.test_threads = Some(1);
    let mut trials = Vec::new();
    let root = nix::unistd::geteuid().is_root();
    let mut add = |name: &str, needs_root: bool, story: fn()| {
        let skip = needs_root && !root;
        // Prepared ahead and then told to execute, it must be confined the same, and fail the same.
        for (name, ahead) in [(name.to_owned(), false), (format!("{name}_ahead"), true)] {
            trials.push(Trial::test(name, move || {
                start::AHEAD.store(ahead, Ordering::Relaxed);
                match (skip, std::env::var("FUNCD_TEST_REQUIRE").as_deref() == Ok("all")) {
                    (true, true) => return Err("skipped, but FUNCD_TEST_REQUIRE=all: needs root".into()),
                    (true, false) => println!("skipped: needs root"),
                    (false, _) => story(),
                }
                Ok(())
            }));
        }
    };
    add("sees_exactly_what_it_was_given", true, || {
        reach::sees_exactly_what_it_was_given(false)
    });
    add("sees_exactly_what_it_was_given_in_a_pid_namespace", true, || {
        reach::sees_exactly_what_it_was_given(true)
    });
    add("reaches_nothing_else", true, || {
        reach::reaches_nothing_else(false)
    });
    add("reaches_nothing_else_in_a_pid_namespace", true, || {
        reach::reaches_nothing_else(true)
    });
    add(
        "the_control_reaches_what_the_sandbox_refuses",
        true,
        reach::the_control_reaches_what_the_sandbox_refuses,
    );
    add(
        "each_mechanism_can_be_left_out",
        true,
        reach::each_mechanism_can_be_left_out,
    );
    add(
        "the_self_check_finds_each_mechanism_that_is_not_applied",
        true,
        self_check::finds_each_mechanism_that_is_not_applied,
    );
    add("tmp_is_bounded", true, reach::tmp_is_bounded);
    add(
        "write_grants_are_writable_and_not_executable",
        true,
        reach::write_grants_are_writable_and_not_executable,
    );
    add("dynamic_executables_run", true, starts::dynamic_executables_run);
    add("scripts_run_by_path", true, starts::scripts_run_by_path);
    add(
        "interpreters_run_under_the_filter",
        true,
        starts::interpreters_run_under_the_filter,
    );
    add(
        "a_failed_step_is_named_with_its_errno",
        true,
        starts::a_failed_step_is_named_with_its_errno,
    );
    add(
        "low_descriptors_are_moved_out_of_the_way",
        true,
        roles::low_descriptors_are_moved_out_of_the_way,
    );
    add(
        "a_mini_init_passes_signals_on_and_reports",
        true,
        starts::a_mini_init_passes_signals_on_and_reports,
    );
    add(
        "killing_the_mini_init_ends_all",
        true,
        starts::killing_the_mini_init_ends_all,
    );
    add(
        "a_killed_cgroup_is_reported_as_such",
        true,
        starts::a_killed_cgroup_is_reported_as_such,
    );
    add("starts_into_a_cgroup", true, starts::starts_into_a_cgroup);
    add("starts_into_v1_cgroups", true, starts::starts_into_v1_cgroups);
    add(
        "a_launcher_that_dropped_first_starts_the_same",
        true,
        roles::a_launcher_that_dropped_first_starts_the_same,
    );
    add("works_without_root", false, roles::works_without_root);
    add(
        "a_user_namespace_that_can_not_be_mapped_is_not_entered",
        true,
        roles::a_user_namespace_that_can_not_be_mapped_is_not_entered,
    );
    add(
        "descriptors_that_there_is_no_room_for_are_closed",
        false,
        roles::descriptors_that_there_is_no_room_for_are_closed,
    );
    add(
        "the_supervisor_confines_itself",
        false,
        roles::the_supervisor_confines_itself,
    );
    add(
        "the_probe_finds_what_works_here",
        true,
        roles::the_probe_finds_what_works_here,
    );
    libtest_mimic::run(&args, trials).exit_code()
}
