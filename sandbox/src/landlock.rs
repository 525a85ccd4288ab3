//! The Landlock rules of an instance: what its child makes of its grants. Never touches the supervisor (see [`crate::own`]).
//!
//! Every file right that the ABI knows is handled, and both scopes where there are any. TCP is handled only where the
//! instance has no network namespace of its own: where it has one, P2 rests on that and on the system call filter, a function
//! that listens on a port must be able to bind, and connects fail with the errno that programs expect (`ENETUNREACH`).

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;

use landlock::{ABI, Access, AccessFs, AccessNet, BitFlags, Scope};

use crate::sys::Errno;
use crate::sys::calls::{self, Handled};

/// A ruleset, ready to be made by the child: the paths are those of its own root.
#[derive(Debug)]
pub(crate) struct Rules {
    handled: Handled,
    paths: Vec<(CString, u64)>,
    executable: u64,
}

/// What a path is granted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grant {
    /// Read and execute.
    Read,
    /// Read and write, and make anything but devices.
    Write,
    /// Read, and never execute.
    Data,
    /// Use the devices in it.
    Devices,
}

impl Rules {
    /// No rule yet: nothing can be opened, except by what is added.
    pub(crate) fn new(abi: u32, handle_tcp: bool) -> Rules {
        let abi = version(abi);
        let network = if handle_tcp {
            AccessNet::from_all(abi).bits()
        } else {
            0
        };
        let scopes = Scope::from_all(abi).bits();
        let files = AccessFs::from_all(abi).bits();
        let executable = (AccessFs::Execute | AccessFs::ReadFile).bits();
        Rules {
            handled: Handled {
                files,
                network,
                scopes,
            },
            paths: Vec::new(),
            executable,
        }
    }

    /// Allows a path, a directory with all below it or a file.
    pub(crate) fn allow(&mut self, path: CString, grant: Grant, directory: bool) {
        let all = BitFlags::<AccessFs>::from_bits_truncate(self.handled.files);
        let nodes = AccessFs::MakeChar | AccessFs::MakeBlock;
        let access = match grant {
            Grant::Read => AccessFs::Execute | AccessFs::ReadFile | AccessFs::ReadDir,
            Grant::Data => AccessFs::ReadFile | AccessFs::ReadDir,
            Grant::Write => !(nodes | AccessFs::Execute),
            Grant::Devices => {
                AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev
            }
        };
        // The kernel refuses rights of directories on files; V9 is all that this build knows.
        let applicable = if directory {
            all
        } else {
            all & AccessFs::from_file(ABI::V9)
        };
        self.paths.push((path, (access & applicable).bits()));
    }

    /// In the child: makes the ruleset. Its descriptor is close-on-exec.
    pub(crate) fn make(&self, executable: RawFd) -> Result<RawFd, Errno> {
        let ruleset = calls::landlock_ruleset(&self.handled)?;
        calls::landlock_allow(ruleset, executable, self.executable)?;
        for (path, access) in &self.paths {
            allow(ruleset, path, *access)?;
        }
        Ok(ruleset)
    }
}

fn allow(ruleset: RawFd, path: &CStr, access: u64) -> Result<(), Errno> {
    let parent = calls::open(path, libc::O_PATH, 0)?;
    let result = calls::landlock_allow(ruleset, parent, access);
    calls::close(parent);
    result
}

/// The newest version that both the kernel and the crate know.
pub(crate) fn version(abi: u32) -> ABI {
    ABI::from(i32::try_from(abi).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_abi_handles_what_it_knows() {
        let handled = |abi, tcp| Rules::new(abi, tcp).handled;
        assert_eq!(
            handled(1, true),
            Handled {
                files: 0x1fff,
                network: 0,
                scopes: 0
            }
        );
        assert_eq!(handled(2, true).files, 0x3fff);
        assert_eq!(handled(3, true).files, 0x7fff);
        assert_eq!(
            handled(4, true),
            Handled {
                files: 0x7fff,
                network: 3,
                scopes: 0
            }
        );
        assert_eq!(
            handled(5, false),
            Handled {
                files: 0xffff,
                network: 0,
                scopes: 0
            }
        );
        assert_eq!(
            handled(7, false),
            Handled {
                files: 0xffff,
                network: 0,
                scopes: 3
            }
        );
        assert_eq!(handled(9, false).files, 0x1ffff);
        assert_eq!(handled(99, false).files, 0x1ffff);
    }

    #[test]
    fn write_grants_neither_execute_nor_devices() {
        for abi in 1..=9 {
            let mut rules = Rules::new(abi, false);
            rules.allow(c"/tmp".into(), Grant::Write, true);
            rules.allow(c"/usr".into(), Grant::Read, true);
            rules.allow(c"/etc/hosts".into(), Grant::Read, false);
            let [write, read, file] = [0, 1, 2].map(|index| rules.paths[index].1);
            assert_eq!(
                write & (1 | 1 << 6 | 1 << 11),
                0,
                "execute, character and block devices"
            );
            assert_eq!(write | 1 | 1 << 6 | 1 << 11, rules.handled.files);
            assert_eq!(read, 0b1101);
            assert_eq!(file, 0b0101);
        }
    }
}
