//! Whether a program could take this one's place: asked of that program itself, in a short-lived child, before anything is changed.

use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};

use super::{Host, carried};

/// What a program says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Its version, for people.
    pub version: String,
    /// The version of the state that it writes.
    pub state: u32,
    /// The oldest version that can read that: older ones could not be gone back to.
    pub readable_by: u32,
    /// The oldest version of messages that its launcher understands.
    pub wire_oldest: u32,
    /// The version of messages that it writes.
    pub wire: u32,
}

/// Called by the program that is asked: reads what the launcher that asks would leave to it (descriptor 3), and says what it is.
///
/// # Errors
/// Why it can't go on with that.
pub fn check(host: &Host) -> Result<Checked, String> {
    let memory =
        std::fs::File::open("/proc/self/fd/3").map_err(|e| format!("no state at descriptor 3: {e}"))?;
    let document = carried::read_from(memory.as_fd())?;
    carried::fits(&document, host)?;
    super::start::check(host).map_err(|e| e.to_string())?;
    Ok(Checked::of_this_program())
}

impl Checked {
    fn of_this_program() -> Checked {
        Checked {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: carried::VERSION,
            readable_by: carried::READABLE_BY,
            wire_oldest: crate::wire::OLDEST,
            wire: crate::wire::VERSION,
        }
    }

    /// Whether this program could be gone back to, and whether its supervisor is understood there.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn fits(&self) -> Result<(), String> {
        if self.readable_by > carried::VERSION || self.wire_oldest > crate::wire::VERSION {
            return Err(format!(
                "funcd {} can't be gone back from to this funcd {}, which is too old: upgrade in smaller steps, or stop funcd and \
                 start it again",
                self.version,
                env!("CARGO_PKG_VERSION"),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_could_not_be_gone_back_from_is_refused() {
        let now = Checked::of_this_program();
        assert_eq!(now.fits(), Ok(()));
        // A later version that this one can read.
        let later = Checked {
            version: "9.0.0".to_owned(),
            state: carried::VERSION + 3,
            wire: crate::wire::VERSION + 3,
            ..now.clone()
        };
        assert_eq!(later.fits(), Ok(()));
        let unreadable = Checked {
            readable_by: carried::VERSION + 1,
            ..later.clone()
        };
        let deaf = Checked {
            wire_oldest: crate::wire::VERSION + 1,
            ..later
        };
        for refused in [unreadable, deaf] {
            let why = refused.fits().unwrap_err();
            assert!(why.contains("9.0.0") && why.contains("too old"), "{why}");
        }
    }

    #[test]
    fn what_a_later_version_says_beside_is_nothing_to_this_one() {
        let mut said = serde_json::to_value(Checked::of_this_program()).unwrap();
        said["something_new"] = serde_json::json!([1]);
        assert!(serde_json::from_value::<Checked>(said).is_ok());
    }
}
