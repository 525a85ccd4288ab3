//! The table contract × real client × feature: which tests show what, and, once they ran, what came of them. Never judges, and
//! never says of a client what no test has seen in this run.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use funcd_tests::peers::{CARGO_LAMBDA, FDK, GUNICORN, Package, STATIC_WEB_SERVER, UVICORN};
use funcd_tests::suite::{Outcome, Suite, outcomes};
use funcd_tests::wheels::{self, FUNCTIONS_FRAMEWORK};

/// As a filter: the tests of the table, and no others.
const GROUP: &str = "contracts";

/// Who is a function here.
#[derive(Clone, Copy)]
enum Client {
    /// A package in one version.
    Package(Package),
    /// A crate in the version of the examples' lock file.
    Crate(&'static str),
    /// What a system brings along.
    System(&'static str),
    /// What was written for the test.
    Own(&'static str),
}

use Client::{Crate, Own, System};

/// A feature, and the tests that show it.
type Feature = (&'static str, &'static [&'static str]);

#[rustfmt::skip]
const TABLE: &[(&str, Client, &[Feature])] = &[
    ("http", System("node:http, listen({fd: 3})"), &[("starts, answers, stops", &["runtimes::node"])]),
    ("http", System("net/http of Go"), &[("starts, answers, stops", &["runtimes::go"])]),
    ("http", Crate("listenfd"), &[
        ("LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES", &["contract::http_is_systemd_socket_activation"]),
        ("answers, with hyper", &["examples::hello_greets"]),
        ("server-sent events, WebSocket", &["http::events_arrive_as_they_happen", "http::websockets_pass"]),
    ]),
    ("http", Crate("axum"), &[
        ("WebSocket, to tokio-tungstenite: text, bytes, pings, closing", &["websocket::text_bytes_pings_and_closing_pass"]),
        ("an open socket holds its place, and outlives a revision for a while", &[
            "websocket::an_open_socket_holds_its_place",
            "websocket::silence_is_no_reason_to_cut_it",
            "websocket::what_is_open_outlives_a_new_revision_for_a_while",
        ]),
        ("wrong handshakes, ends of instances", &[
            "websocket::who_asks_wrongly_is_told_by_the_function",
            "websocket::an_instance_that_ends_cuts_its_sockets",
        ]),
    ]),
    ("http", Client::Package(GUNICORN), &[("LISTEN_FDS, worker processes", &["contract::gunicorn_serves_through_listen_fds"])]),
    ("http", Client::Package(UVICORN), &[("--fd 3; bodies and streams", &["clients::uvicorn_serves_through_a_descriptor"])]),
    ("http", Crate("tonic"), &[
        ("gRPC over h2c: unary, streams, both ways at once", &["grpc::every_kind_of_call_passes"]),
        ("deadlines by grpc-timeout", &["grpc::the_deadline_is_passed_on_and_kept"]),
        ("own errors as a status of gRPC", &["grpc::own_errors_are_told_as_a_status_of_grpc"]),
        ("callers who leave, instances that die", &[
            "grpc::who_leaves_ends_the_call",
            "grpc::a_killed_instance_is_told_and_no_call_is_made_twice",
        ]),
        ("many calls on few connections", &["grpc::many_calls_share_few_connections"]),
    ]),
    ("http", Own("a bad one"), &[
        ("writes what is not HTTP", &["refusals::what_is_not_http_from_a_function_is_502"]),
        ("answers too late", &["refusals::too_slow_an_answer_is_504"]),
        ("breaks off", &["refusals::a_body_that_breaks_off_is_seen"]),
        ("h2c: bad frames, HTTP/1.1 alone, reads nothing, no trailers", &[
            "grpc::bad_frames_end_in_a_clear_status",
            "grpc::one_that_speaks_http1_alone",
            "grpc::one_that_never_reads_keeps_nobody_waiting",
            "grpc::an_end_without_trailers_is_no_success",
        ]),
    ]),
    ("port", System("http.server of Python"), &[
        ("starts, answers, stops", &["runtimes::python"]),
        ("$PORT and K_SERVICE", &["contract::port_tells_which_port_to_listen_on"]),
        ("a network of its own", &["contract::port_functions_have_a_network_each"]),
    ]),
    ("port", Own(FUNCTIONS_FRAMEWORK), &[("Cloud Run, by the guide", &["guides::the_guide_for_cloud_run_does_what_it_says"])]),
    ("port", System("a server of Kubeless"), &[("by the guide", &["guides::the_guide_for_kubeless_does_what_it_says"])]),
    ("port", System("uwsgi of Debian"), &[("uWSGI Emperor, by the guide", &["guides::the_guide_for_uwsgi_does_what_it_says"])]),
    ("port", Own(wheels::GUNICORN), &[("nginx Unit, by the guide", &["guides::the_guide_for_nginx_unit_does_what_it_says"])]),
    ("port", Own("any server"), &[
        ("the variables of its host", &["port::a_function_finds_what_its_host_would_say"]),
        ("deadlines, 504, SIGTERM then SIGKILL", &[
            "port::a_late_answer_is_504_and_the_instance_is_kept",
            "port::a_caller_may_only_shorten",
            "port::a_stop_is_sigterm_and_sigkill_after_stop_within",
        ]),
    ]),
    ("port", Crate("tonic"), &[("gRPC over h2c", &["grpc::an_unmodified_server_on_port"])]),
    ("port", Crate("axum"), &[("WebSocket", &["websocket::an_unmodified_server_on_port"])]),
    ("port", System("com.sun.net.httpserver of Java"), &[("starts, answers, stops", &["runtimes::java"])]),
    ("port", System("perl"), &[("starts, answers, stops", &["runtimes::perl"])]),
    ("port", System("busybox nc and sh"), &[("starts, answers, stops", &["runtimes::shell"])]),
    ("port", System("caddy of Debian"), &[
        ("starts, answers, stops", &["runtimes::go_packaged_by_debian"]),
        ("{$PORT} in its own file; files, ranges, compression", &["clients::caddy_serves_files_by_its_own_configuration"]),
    ]),
    ("port", Client::Package(GUNICORN), &[("takes $PORT by itself", &["clients::gunicorn_takes_the_port_by_itself"])]),
    ("port", Client::Package(UVICORN), &[("--port; bodies and streams", &["clients::uvicorn_serves_through_port"])]),
    ("port", Client::Package(STATIC_WEB_SERVER), &[("files, ranges", &["contract::static_web_server_serves_through_port"])]),
    ("port", Own("a bad one"), &[
        ("listens on the wrong port", &["bad::a_server_on_the_wrong_port_is_told_the_right_one"]),
        ("listens on ::1 only", &["bad::a_server_on_the_other_loopback_is_told_so"]),
    ]),
    ("lambda", Crate("lambda_http"), &[
        ("JSON, query, routes", &["lambda::a_function_of_the_crate_answers"]),
        ("cookies", &["lambda::a_function_of_the_crate_answers"]),
        ("binary, both ways", &["lambda::bytes_go_in_and_out"]),
        ("errors", &["lambda::an_error_is_told_to_the_log_and_not_to_callers"]),
        ("found without a manifest", &["lambda::one_without_a_manifest_is_found_out"]),
    ]),
    ("lambda", Crate("lambda_runtime"), &[
        ("events and contexts", &["lambda::events_and_contexts_are_those_of_the_contract"]),
        ("bare JSON", &["lambda::an_answer_without_a_status_is_the_body"]),
        ("streaming", &["lambda::a_response_is_streamed"]),
        ("a stream that breaks off", &["lambda::a_stream_that_breaks_off_is_seen_to"]),
        ("16 concurrent pollers", &["lambda::sixteen_are_worked_on_at_once"]),
        ("time-outs", &["lambda::one_that_does_not_answer_in_time_ends"]),
        ("panics, exits", &["lambda::one_that_dies_is_told_and_started_again"]),
        ("an error before the first event", &["lambda::one_that_ends_in_its_init_phase_is_told"]),
        ("raw invocations", &["lambda::raw_invocations_are_for_those_who_ask_for_them"]),
    ]),
    ("lambda", Client::Package(CARGO_LAMBDA), &[("cargo lambda invoke", &["lambda::cargo_lambda_invokes"])]),
    ("lambda", Own("http.client of Python"), &[
        ("a bootstrap by hand", &["lambda::by_hand"]),
        ("the guide's example", &["guides::the_guide_for_lambda_does_what_it_says"]),
        ("streams as the client for Go writes them", &["lambda::a_stream_as_the_client_for_go_writes_it"]),
        ("extensions", &["lambda::extensions_are_put_up_with"]),
        ("init errors", &["lambda::an_init_error_is_in_the_log"]),
        ("survives a crash of the supervisor", &["lambda::a_supervisor_that_crashes_is_asked_on"]),
    ]),
    ("lambda", Own("a bad one"), &[
        ("answers the wrong id", &["bad::a_lambda_function_that_answers_another_id_is_told"]),
        ("answers twice", &["bad::a_lambda_function_that_answers_twice_is_told"]),
        ("answers too much", &["bad::a_lambda_function_that_answers_too_much_is_told"]),
        ("never answers", &["bad::a_lambda_function_that_never_answers_is_ended"]),
        ("never asks", &["bad::a_lambda_function_that_never_asks_is_ended"]),
        ("asks for what there is not", &["lambda::answers_that_nobody_asked_for_are_refused"]),
    ]),
    ("fn", Client::Package(FDK), &[
        ("calls, status, headers, errors", &["migrate::an_fdk_of_fn_serves_calls"]),
        ("the guide's example", &["guides::the_guide_for_fn_does_what_it_says"]),
    ]),
    ("fn", Own("a bad one"), &[
        ("its socket is a symlink out of its directory", &["bad::an_fdk_whose_socket_is_elsewhere_is_killed"]),
        ("never has a socket", &["bad::an_fdk_without_a_socket_is_killed"]),
        ("answers what no FDK does", &["migrate::an_fdk_that_misbehaves_is_ended"]),
    ]),
    ("stdio", System("cat"), &[("bodies of any length, chunked too", &["programs::cat_answers_with_what_it_is_sent"])]),
    ("stdio", System("wc, jq"), &[("arguments, media types, failures", &["programs::wc_and_jq_are_functions"])]),
    ("stdio", System("bash"), &[
        ("OpenFaaS classic, streaming, serializing", &["programs::each_mode_answers_as_its_watchdog"]),
        ("the variables of OpenFaaS, IronFunctions, CGI", &["programs::a_request_is_in_the_environment"]),
        ("a process for each request", &["programs::each_request_has_a_process_of_its_own"]),
        ("the guides' examples", &[
            "guides::the_guide_for_openfaas_does_what_it_says",
            "guides::the_guide_for_ironfunctions_does_what_it_says",
        ]),
    ]),
    ("stdio", Own("a bad one"), &[
        ("never reads", &["bad::a_program_that_never_reads_is_answered_for"]),
        ("never ends", &["bad::a_program_that_never_ends_is_killed"]),
        ("writes for ever", &["bad::a_program_that_writes_for_ever_is_killed"]),
        ("executes nothing", &["programs::what_executes_nothing_says_so"]),
    ]),
    ("cgi", System("bash"), &[("status, headers, body", &["programs::a_bash_script_is_a_cgi_program"])]),
    ("cgi", System("perl"), &[
        ("headers, body", &["programs::a_perl_script_is_a_cgi_program"]),
        ("the guide's example", &["guides::the_guide_for_cgi_does_what_it_says"]),
    ]),
    ("cgi", Own("a bad one"), &[
        ("writes headers for ever", &["bad::a_program_that_writes_headers_for_ever_is_killed"]),
        ("writes no headers", &["bad::a_program_without_headers_is_told"]),
    ]),
    ("ironhttp", System("perl"), &[
        ("one request after the other", &["migrate::an_ironhttp_program_answers_one_request_after_the_other"]),
    ]),
    ("ironhttp", Own("a bad one"), &[
        ("no length, no HTTP, no end, two answers", &["migrate::an_ironhttp_program_that_misbehaves_is_replaced"]),
    ]),
    ("auto", Own("every example"), &[
        ("the contract, and why, without a manifest", &["auto::each_example_is_found_out_without_a_manifest"]),
        ("so for what others wrote", &["auto::what_others_wrote_is_found_out_without_a_manifest"]),
        ("so for the guides' examples", &["auto::an_example_of_a_guide_is_found_out_without_its_manifest"]),
        ("each rule", &["programs::what_an_executable_is_for_is_found_out"]),
    ]),
];

/// The tests that there are.
static KNOWN: OnceLock<Vec<String>> = OnceLock::new();

/// Every test that the table names.
fn named() -> impl Iterator<Item = &'static str> {
    let features = TABLE.iter().flat_map(|(_, _, features)| *features);
    features.flat_map(|(_, tests)| tests.iter().copied())
}

fn is_there(name: &str) -> bool {
    let known = KNOWN.get().map_or(&[] as &[_], Vec::as_slice);
    known.iter().any(|test| test == name)
}

pub(crate) fn register(suite: &mut Suite) {
    let _ = KNOWN.set(suite.names().map(str::to_owned).collect());
    suite.add("contracts::each_row_names_tests_that_are_there", &[], || {
        let unknown: Vec<&str> = named().filter(|name| !is_there(name)).collect();
        assert!(unknown.is_empty(), "no such test: {unknown:?}");
    });
    suite.group(GROUP, named());
}

impl Client {
    fn name(self) -> String {
        match self {
            Client::Package(package) => format!("{} {}", package.name, package.version),
            Crate(name) => match locked(name) {
                Some(version) => format!("{name} {version}"),
                None => name.to_owned(),
            },
            System(name) | Own(name) => name.to_owned(),
        }
    }
}

/// The version of a crate that the examples are built with.
fn locked(name: &str) -> Option<&'static str> {
    let lock = include_str!("../../../examples/Cargo.lock");
    let begin = format!("name = \"{name}\"\nversion = \"");
    let (_, rest) = lock.split_once(&begin)?;
    rest.split('"').next()
}

/// What came of all of them together; none when they were not chosen.
fn together(tests: &[&str], came: &BTreeMap<String, Outcome>) -> Option<String> {
    if !tests.iter().all(|test| is_there(test)) {
        return Some("no such test".to_owned());
    }
    let mut ran = came
        .iter()
        .filter(|(name, _)| tests.contains(&name.as_str()))
        .peekable();
    ran.peek()?;
    let mut skipped = None;
    for (name, outcome) in ran {
        match outcome {
            Outcome::Passed => {}
            Outcome::Failed => return Some(format!("**FAIL**: {name}")),
            Outcome::Skipped(need) => skipped = Some(format!("skipped: {name} needs {need}")),
        }
    }
    Some(skipped.unwrap_or("pass".to_owned()))
}

/// Prints what came of the tests that ran, as Markdown; nothing when none of the table did.
pub(crate) fn print() {
    let came = outcomes();
    if !named().any(|test| came.contains_key(test)) {
        return;
    }
    let (mut passed, mut others) = (0, 0);
    println!("\n| contract | client | feature | result |\n|---|---|---|---|");
    for (contract, client, features) in TABLE {
        for (feature, tests) in *features {
            let Some(result) = together(tests, &came) else {
                continue;
            };
            match result.as_str() {
                "pass" => passed += 1,
                _ => others += 1,
            }
            let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
            let (client, result) = (cell(&client.name()), cell(&result));
            println!("| {contract} | {client} | {feature} | {result} |");
        }
    }
    println!("{passed} features passed, {others} did not.");
}
