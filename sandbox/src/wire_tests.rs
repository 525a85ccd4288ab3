//! Messages on a real socket, and what each version of them looks like.

use std::os::fd::AsFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use proptest::prelude::*;

use super::*;
use crate::spec::{Image, Limits, Socket};

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .unwrap()
}

fn buffer() -> Box<[u8; MAX_MESSAGE]> {
    Box::new([0; MAX_MESSAGE])
}

#[test]
fn descriptors_travel_with_their_message() {
    let (a, b) = pair();
    let fds = [a.as_raw_fd(); MAX_FDS];
    send(a.as_fd(), &Request::Store { ticket: 7 }, &fds).unwrap();
    let (request, got): (Request, _) = recv(b.as_fd(), &mut buffer()).unwrap().unwrap();
    assert_eq!((request, got.len()), (Request::Store { ticket: 7 }, MAX_FDS));
    drop(a);
    drop(got);
    assert!(recv::<Request>(b.as_fd(), &mut buffer()).unwrap().is_none());
}

#[test]
fn what_is_too_large_is_refused_at_both_ends() {
    let (a, b) = pair();
    let large = Request::Retain {
        artifacts: vec![Digest([0; 32]); MAX_MESSAGE / 32],
    };
    assert_eq!(encode(&large).unwrap_err().kind(), io::ErrorKind::InvalidData);
    send_bytes(a.as_fd(), &vec![0; MAX_MESSAGE + 1], &[]).unwrap();
    let refused = recv::<Request>(b.as_fd(), &mut buffer()).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn too_many_descriptors_are_refused_and_closed() {
    let (a, b) = pair();
    let fds = vec![a.as_raw_fd(); MAX_FDS + 3];
    send_bytes(a.as_fd(), &encode(&Request::Goodbye).unwrap(), &fds).unwrap();
    let refused = recv::<Request>(b.as_fd(), &mut buffer()).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    drop(a);
    assert!(recv::<Request>(b.as_fd(), &mut buffer()).unwrap().is_none());
}

#[test]
fn descriptor_3_of_a_process_that_is_no_supervisor_is_refused() {
    assert!(inherited().is_err());
    assert_eq!(inherited().unwrap_err().kind(), io::ErrorKind::NotFound);
}

prop_compose! {
    fn any_spec()(
        function in ".{0,70}",
        digest in any::<[u8; 32]>(),
        args in prop::collection::vec(".{0,20}", 0..5),
        env in prop::collection::vec((".{0,9}", ".{0,9}"), 0..5),
        numbers in any::<(u64, u32, u32, u64, u32, u16)>(),
        memo in prop::collection::vec(any::<u8>(), 0..50),
    ) -> Spec {
        Spec {
            function,
            artifact: Digest(digest),
            image: Image::Script,
            args,
            env,
            socket: Socket::Port(numbers.5),
            ports: Vec::new(),
            limits: Limits {
                memory_bytes: numbers.0,
                cpu_millis: numbers.1,
                cpu_idle: numbers.4 % 2 == 1,
                pids: numbers.2,
                tmp_bytes: numbers.3,
                files: numbers.4,
            },
            system: crate::spec::System::Parts {
                paths: vec!["/usr/lib/libc.so.6".into()],
                links: vec![("/lib".into(), "usr/lib".into())],
            },
            read: vec!["/a".into()],
            write: vec![],
            secrets: vec!["key".into()],
            degraded: vec![crate::property::Property::Files],
            memo,
        }
    }
}

/// One of each request, as the first version wrote it: never to be changed.
const REQUESTS_1: &str = include_str!("wire_1_requests.txt");
/// One of each event.
const EVENTS_1: &str = include_str!("wire_1_events.txt");

fn spec() -> Box<Spec> {
    Box::new(Spec {
        function: "hello".to_owned(),
        artifact: Digest([1; 32]),
        image: Image::Static,
        args: vec!["hello".to_owned()],
        env: vec![("PORT".to_owned(), "8080".to_owned())],
        socket: Socket::Port(8080),
        ports: vec![80],
        limits: Limits {
            memory_bytes: 1 << 28,
            cpu_millis: 1000,
            cpu_idle: true,
            pids: 64,
            tmp_bytes: 1 << 26,
            files: 1024,
        },
        system: crate::spec::System::Parts {
            paths: vec!["/usr/lib/libc.so.6".into()],
            links: vec![("/lib".into(), "usr/lib".into())],
        },
        read: vec!["/a".into()],
        write: vec!["/srv/b".into()],
        secrets: vec!["key".to_owned()],
        degraded: vec![crate::property::Property::Files],
        memo: vec![2, 3],
    })
}

/// In the order of their declaration, which is what the first byte says.
fn requests() -> Vec<Request> {
    let id = InstanceId(300);
    vec![
        Request::Store { ticket: 7 },
        Request::Retain {
            artifacts: vec![Digest([1; 32])],
        },
        Request::Launch { id, spec: spec() },
        Request::Prepare { id, spec: spec() },
        Request::Terminate { id },
        Request::Kill { id },
        Request::Freeze { id },
        Request::Thaw { id },
        Request::Sockets { id, count: 3 },
        Request::Usage { ids: vec![id] },
        Request::Look { id },
        Request::Goodbye,
        Request::Upgrade { ticket: 7 },
        Request::Yielded,
        Request::Pass { id },
        Request::Serving,
        Request::Pulse,
    ]
}

/// The same.
fn events() -> Vec<Event> {
    let id = InstanceId(300);
    let strain = Strain {
        throttled_micros: 1,
        oom_kills: 2,
        pressure_micros: [[3, 4], [5, 6], [7, 8]],
    };
    let spent = Spent {
        cpu_micros: 9,
        oom_kills: 1,
    };
    let exit = |exit| Event::Exited { id, exit, spent };
    vec![
        Event::Welcome(Box::new(Handover {
            version: 1,
            config: b"{}".to_vec(),
            descriptors: vec![
                Descriptor::Listener,
                Descriptor::Admin,
                Descriptor::AdminTcp,
                Descriptor::Functions,
                Descriptor::Sockets,
                Descriptor::Logs,
            ],
            generation: 2,
            next_id: id,
            grades: Vec::new(),
            can_stand_by: true,
            can_freeze: false,
            alone: true,
        })),
        Event::Descriptors,
        Event::Inventory {
            id,
            pid: 4000,
            terminating: false,
            frozen: true,
            memo: vec![2, 3],
        },
        Event::InventoryEnd,
        Event::Stored {
            ticket: 7,
            result: Ok((Digest([1; 32]), 1000)),
        },
        Event::Stored {
            ticket: 7,
            result: Err(StoreError::BeingWritten),
        },
        Event::Stored {
            ticket: 7,
            result: Err(StoreError::Changed),
        },
        Event::Stored {
            ticket: 7,
            result: Err(StoreError::Refused("why".to_owned())),
        },
        Event::Bound { id },
        Event::Prepared { id },
        Event::Launched { id, pid: 4000 },
        Event::LaunchFailed {
            id,
            step: Step::ALL[0],
            errno: 13,
            message: "why".to_owned(),
        },
        exit(Exit::Code { code: 3 }),
        exit(Exit::Signal { signal: 9 }),
        exit(Exit::Oom),
        exit(Exit::StartTimeout),
        exit(Exit::StopTimeout),
        exit(Exit::Stopped),
        exit(Exit::Launch {
            step: Step::ALL[1],
            errno: 13,
        }),
        exit(Exit::Lost),
        exit(Exit::Ejected),
        exit(Exit::Unresponsive),
        Event::Sockets { id },
        Event::Usage {
            id,
            usage: Usage {
                memory_bytes: 1 << 20,
                cpu_micros: 5,
                pids: 6,
                strain,
            },
        },
        Event::Looked {
            id,
            condition: Condition {
                is_stopped: true,
                is_traced: false,
                throttled: 4,
                cpu_micros: 5,
            },
        },
        Event::Shutdown,
        Event::Reload,
        Event::Upgraded {
            ticket: 7,
            result: Ok("0.1.0".to_owned()),
        },
        Event::Upgraded {
            ticket: 7,
            result: Err("why".to_owned()),
        },
        Event::Retire,
        Event::Alone,
        Event::Passed { id },
        Event::Pulse,
    ]
}

/// A line of hexadecimal digits for each.
fn written<T: Serialize>(messages: &[T]) -> String {
    let line = |message| -> String {
        let bytes = encode(message).unwrap();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n"
    };
    messages.iter().map(line).collect()
}

fn read<T: DeserializeOwned>(lines: &str) -> Vec<T> {
    let bytes = |line: &str| -> Vec<u8> {
        (0..line.len() / 2)
            .map(|at| u8::from_str_radix(&line[2 * at..2 * at + 2], 16).unwrap())
            .collect()
    };
    lines.lines().map(|line| decode(&bytes(line)).unwrap()).collect()
}

#[test]
fn what_version_1_says_is_understood_and_said() {
    assert_eq!(read::<Request>(REQUESTS_1), requests());
    assert_eq!(read::<Event>(EVENTS_1), events());
    assert_eq!(
        written(&requests()),
        REQUESTS_1,
        "a message was changed: it needs a new one"
    );
    assert_eq!(
        written(&events()),
        EVENTS_1,
        "a message was changed: it needs a new one"
    );
    // One of each, but for those that later versions add behind the last.
    let kinds = |lines: &str| {
        lines
            .lines()
            .map(|line| line[..2].to_owned())
            .collect::<std::collections::BTreeSet<_>>()
            .len()
    };
    assert_eq!((kinds(REQUESTS_1), kinds(EVENTS_1)), (17, 20));
}

proptest! {
    #[test]
    fn requests_come_out_as_they_went_in(spec in any_spec(), id in any::<u64>()) {
        let request = Request::Launch { id: InstanceId(id), spec: Box::new(spec) };
        let bytes = encode(&request).unwrap();
        prop_assert_eq!(decode::<Request>(&bytes).unwrap(), request);
        // A byte more or less is no message.
        prop_assert!(decode::<Request>(&[&bytes[..], &[0]].concat()).is_err());
        prop_assert!(decode::<Request>(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn ends_come_out_as_they_went_in(id in any::<u64>(), number in any::<i32>(), step in 0..Step::ALL.len()) {
        for exit in [
            Exit::Code { code: number },
            Exit::Signal { signal: number },
            Exit::Oom,
            Exit::StartTimeout,
            Exit::StopTimeout,
            Exit::Stopped,
            Exit::Launch { step: Step::ALL[step], errno: number },
            Exit::Lost,
            Exit::Ejected,
            Exit::Unresponsive,
        ] {
            let spent = Spent { cpu_micros: id, oom_kills: 1 };
            let event = Event::Exited { id: InstanceId(id), exit, spent };
            prop_assert_eq!(decode::<Event>(&encode(&event).unwrap()).unwrap(), event);
        }
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode::<Request>(&bytes);
        let _ = decode::<Event>(&bytes);
    }
}
