//! Where this process may make cgroups: a pure reading of `/proc/self/cgroup` and `/proc/self/mountinfo`. Never looks
//! at a file itself; what is delegated and writable are arguments.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use super::Controller;

/// What can be known about a cgroup directory only by looking at it.
pub(crate) struct Access<'a> {
    /// Whether this process is root.
    pub(crate) root: bool,
    /// Whether a manager gave the directory away: the xattr `user.delegate` or `trusted.delegate` (systemd.resource-control(5)).
    pub(crate) delegated: &'a dyn Fn(&Path) -> bool,
    /// Whether this process may make directories in it.
    pub(crate) writable: &'a dyn Fn(&Path) -> bool,
}

/// Where cgroups can be made.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// In the v2 hierarchy.
    pub(crate) v2: Option<FoundV2>,
    /// In v1 hierarchies, one for each mount.
    pub(crate) v1: Vec<FoundV1>,
    /// Whether a v2 hierarchy is mounted at all.
    pub(crate) v2_mounted: bool,
}

/// A place in the v2 hierarchy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FoundV2 {
    /// Where the hierarchy is mounted.
    pub(crate) mount: PathBuf,
    /// The directory that our subtree goes into.
    pub(crate) base: PathBuf,
    /// The directory of the cgroup that this process is in.
    pub(crate) own: PathBuf,
    /// Whether `base` was given to us, so that its `subtree_control` is ours.
    pub(crate) delegated: bool,
}

/// A v1 hierarchy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FoundV1 {
    /// Where it is mounted; our subtree goes directly below.
    pub(crate) mount: PathBuf,
    /// Which of the controllers that we use are in it.
    pub(crate) controllers: Vec<Controller>,
}

/// One line of mountinfo, as far as cgroups need it (proc_pid_mountinfo(5)).
struct Mount {
    root: PathBuf,
    point: PathBuf,
    kind: String,
    options: String,
}

/// Finds the places. `own` is the text of `/proc/self/cgroup`, `mountinfo` that of `/proc/self/mountinfo`.
pub(crate) fn discover(own: &str, mountinfo: &str, access: &Access<'_>) -> Found {
    let mut found = Found::default();
    let own_v2 = own.lines().find_map(|line| line.strip_prefix("0::"));
    for mount in mountinfo.lines().filter_map(parse_mount) {
        match mount.kind.as_str() {
            "cgroup2" => {
                found.v2_mounted = true;
                if found.v2.is_none() {
                    found.v2 = own_v2.and_then(|own| place_v2(own, mount, access));
                }
            }
            "cgroup" => {
                let mut controllers: Vec<Controller> =
                    mount.options.split(',').filter_map(Controller::parse).collect();
                let known = |c: &Controller| found.v1.iter().any(|v1| v1.controllers.contains(c));
                controllers.retain(|c| !known(c));
                if !controllers.is_empty() && (access.writable)(&mount.point) {
                    found.v1.push(FoundV1 {
                        mount: mount.point,
                        controllers,
                    });
                }
            }
            _ => {}
        }
    }
    found
}

fn place_v2(own: &str, mount: Mount, access: &Access<'_>) -> Option<FoundV2> {
    // A path outside of the mount (another cgroup namespace) reads `/../..`.
    let inside = Path::new(own)
        .strip_prefix(&mount.root)
        .ok()
        .filter(|rest| rest.components().all(|c| matches!(c, Component::Normal(_))));
    let own_dir = match inside {
        Some(rest) if rest.as_os_str().is_empty() => mount.point.clone(),
        Some(rest) => mount.point.join(rest),
        None => mount.point.clone(),
    };
    let found = |base: &Path, delegated: bool| {
        Some(FoundV2 {
            mount: mount.point.clone(),
            base: base.to_path_buf(),
            own: own_dir.clone(),
            delegated,
        })
    };
    if own_dir != mount.point {
        if (access.delegated)(&own_dir) && (access.writable)(&own_dir) {
            return found(&own_dir, true);
        }
        // `DelegateSubgroup=`: the unit above is given to us, and we were put into a group that is no unit.
        if let Some(above) = own_dir.parent()
            && is_unit(above)
            && !is_unit(&own_dir)
            && (access.delegated)(above)
            && (access.writable)(above)
        {
            return found(above, true);
        }
        if !access.root && (access.writable)(&own_dir) {
            return found(&own_dir, true);
        }
    }
    if access.root && (access.writable)(&mount.point) {
        return found(&mount.point, false);
    }
    None
}

/// Whether a directory is a service or scope of systemd.
fn is_unit(dir: &Path) -> bool {
    dir.extension()
        .is_some_and(|ext| ext == "service" || ext == "scope" || ext == "slice")
}

fn parse_mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let kind = after.next()?.to_owned();
    let options = after.nth(1)?.to_owned();
    Some(Mount {
        root: unescape(root),
        point: unescape(point),
        kind,
        options,
    })
}

/// Undoes the `\040` of mountinfo.
fn unescape(text: &str) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(value) => {
                out.push(value);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PURE_V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
37 31 0:36 / /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn look(own: &str, mounts: &str, root: bool, delegated: &[&str], writable: &[&str]) -> Found {
        let delegated = |path: &Path| delegated.iter().any(|d| path == Path::new(d));
        let writable = |path: &Path| writable.iter().any(|w| path == Path::new(w));
        discover(
            own,
            mounts,
            &Access {
                root,
                delegated: &delegated,
                writable: &writable,
            },
        )
    }

    fn base(found: &Found) -> Option<(&str, bool)> {
        found
            .v2
            .as_ref()
            .map(|v2| (v2.base.to_str().unwrap(), v2.delegated))
    }

    #[test]
    fn v2_places() {
        let unit = "/sys/fs/cgroup/system.slice/funcd.service";
        let sub = "/sys/fs/cgroup/system.slice/funcd.service/launcher";
        let scope = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/run-1.scope";
        let session = "/sys/fs/cgroup/user.slice/user-1000.slice/session-1.scope";
        let top = "/sys/fs/cgroup";
        let own = |dir: &str| format!("0::{}\n", dir.strip_prefix(top).unwrap());
        for (what, own, root, delegated, writable, expected) in [
            (
                "Delegate=yes",
                own(unit),
                true,
                vec![unit],
                vec![unit, top],
                Some((unit, true)),
            ),
            (
                "DelegateSubgroup=",
                own(sub),
                true,
                vec![unit],
                vec![unit, sub, top],
                Some((unit, true)),
            ),
            (
                "a service of another user",
                own(sub),
                false,
                vec![unit],
                vec![unit, sub],
                Some((unit, true)),
            ),
            (
                "root's shell in a session",
                own(session),
                true,
                vec![],
                vec![session, top],
                Some((top, false)),
            ),
            (
                "root at the top",
                "0::/\n".to_owned(),
                true,
                vec![],
                vec![top],
                Some((top, false)),
            ),
            (
                "a user's own scope",
                own(scope),
                false,
                vec![],
                vec![scope],
                Some((scope, true)),
            ),
            ("a user's session", own(session), false, vec![], vec![], None),
            (
                "mounted read-only",
                "0::/\n".to_owned(),
                true,
                vec![],
                vec![],
                None,
            ),
            (
                "outside of the mount",
                "0::/../x\n".to_owned(),
                true,
                vec![],
                vec![top],
                Some((top, false)),
            ),
            (
                "no v2 line",
                "3:cpu:/\n".to_owned(),
                true,
                vec![],
                vec![top],
                None,
            ),
        ] {
            let found = look(&own, PURE_V2, root, &delegated, &writable);
            assert_eq!(base(&found), expected, "{what}");
            assert!(found.v1.is_empty(), "{what}");
        }
    }

    #[test]
    fn a_unit_of_the_user_manager_is_not_taken_for_a_subgroup() {
        let manager = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service";
        let scope = format!("{manager}/init.scope");
        let own = format!("0::{}\n", scope.strip_prefix("/sys/fs/cgroup").unwrap());
        let found = look(&own, PURE_V2, false, &[manager], &[manager, &scope]);
        assert_eq!(base(&found), Some((scope.as_str(), true)));
    }

    #[test]
    fn hybrid_has_both() {
        let all = [
            "/sys/fs/cgroup/cpu",
            "/sys/fs/cgroup/cpuacct",
            "/sys/fs/cgroup/memory",
            "/sys/fs/cgroup/freezer",
            "/sys/fs/cgroup/pids",
            "/sys/fs/cgroup/unified",
        ];
        let found = look("4:memory:/x\n0::/\n", HYBRID, true, &[], &all);
        assert_eq!(base(&found), Some(("/sys/fs/cgroup/unified", false)));
        let controllers: Vec<_> = found.v1.iter().flat_map(|v1| v1.controllers.clone()).collect();
        assert_eq!(
            controllers,
            [
                Controller::Cpu,
                Controller::Cpuacct,
                Controller::Memory,
                Controller::Freezer,
                Controller::Pids
            ]
        );
    }

    #[test]
    fn v1_only_with_controllers_mounted_together() {
        let mounts = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
        let found = look(
            "1:cpu,cpuacct:/\n",
            mounts,
            true,
            &[],
            &["/sys/fs/cgroup/cpu,cpuacct"],
        );
        assert_eq!(found.v2, None);
        assert!(!found.v2_mounted);
        assert_eq!(found.v1[0].controllers, [Controller::Cpu, Controller::Cpuacct]);
    }

    #[test]
    fn nothing_mounted_or_writable_is_nothing_found() {
        assert_eq!(look("", "", true, &[], &[]), Found::default());
        let found = look("0::/\n", HYBRID, false, &[], &[]);
        assert_eq!((found.v2, found.v1), (None, vec![]));
    }

    #[test]
    fn escapes_in_mount_points() {
        assert_eq!(unescape("/a\\040b\\x"), PathBuf::from("/a b\\x"));
    }
}
