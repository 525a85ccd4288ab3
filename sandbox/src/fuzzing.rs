//! What fuzz targets reach of this crate's private parts. Only there when built by cargo-fuzz (`--cfg fuzzing`), and in
//! tests, so that it doesn't rot unseen.

use std::path::Path;

use crate::floor::Floor;
use crate::probe::{Facts, grade};
use crate::property::Property;
use crate::spec::{Socket, Spec, System};

/// Decodes a spec and checks it against a host's floor; what passes must be within it, by an independent reading.
///
/// # Panics
/// When something passes that may not.
pub fn floor(bytes: &[u8]) {
    let Ok(spec) = crate::wire::decode::<Spec>(bytes) else {
        return;
    };
    // A host that keeps nothing and accepts that, but for one property.
    let accepted: Vec<Property> = Property::ALL
        .into_iter()
        .filter(|p| *p != Property::Network)
        .collect();
    let mut grades = grade(&Facts::default());
    grades.retain(|grade| grade.property != Property::Network);
    let floor = Floor::of(&[Path::new("/usr")], &[Path::new("/srv/a")], &accepted, &grades);
    if floor.check(&spec).is_err() {
        return;
    }
    let text = |text: &str| assert!(!text.contains('\0'), "a NUL in {text:?}");
    assert!((1..=63).contains(&spec.function.len()));
    assert!(!spec.function.contains(['/', '.', '\0']), "{:?}", spec.function);
    assert!(!spec.args.is_empty() && spec.args.len() + spec.env.len() <= 512);
    spec.args.iter().for_each(|arg| text(arg));
    for (name, value) in &spec.env {
        text(value);
        assert!(!name.starts_with("LD_") && !name.contains(['=', '\0']) && !name.is_empty());
    }
    for (path, root) in [&spec.read, &spec.write]
        .into_iter()
        .zip(["/usr", "/srv/a"])
        .flat_map(|(p, r)| p.iter().map(move |p| (p, r)))
    {
        let path = path.to_str().expect("paths on the wire are UTF-8");
        text(path);
        assert!(
            path == root
                || path
                    .strip_prefix(root)
                    .is_some_and(|below| below.starts_with('/')),
            "{path:?}"
        );
        assert!(
            !path.split('/').any(|part| part == ".." || part == "."),
            "{path:?}"
        );
    }
    if let System::Parts { paths, links } = &spec.system {
        for path in paths.iter().chain(links.iter().map(|(path, _)| path)) {
            assert!(crate::system::holds(path), "{path:?}");
            let is_above = |(link, _): &&(_, _)| path != link && path.starts_with(link);
            assert!(
                links.iter().find(is_above).is_none(),
                "{path:?} is below a symlink"
            );
        }
    }
    assert!(!spec.degraded.contains(&Property::Network));
    assert!(spec.memo.len() <= 24 * 1024);
    assert_ne!(spec.socket, Socket::Port(0));
    assert!(spec.ports.len() <= crate::spec::MAX_PORTS && !spec.ports.contains(&0));
    assert!(spec.socket != Socket::None || !spec.ports.is_empty());
    assert!(spec.limits.memory_bytes >= 1 << 20 && spec.limits.memory_bytes <= 1 << 50);
    assert!(spec.limits.pids >= 1 && spec.limits.cpu_millis >= 1 && spec.limits.files >= 8);
}
