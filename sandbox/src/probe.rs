//! What this kernel can enforce, property by property.

use serde::{Deserialize, Serialize};

use crate::property::Property;

/// How one property stands on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grade {
    /// Which property.
    pub property: Property,
    /// The mechanisms that keep it, for example `mount namespace + own uid + Landlock 7`; `None` when it is missing.
    pub mechanism: Option<String>,
    /// Why it is missing; empty when it is kept.
    pub cause: String,
    /// What to do about that; empty when it is kept.
    pub fix: String,
}
