//! The program on devices: which mode, who else is there, and what is left behind.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

mod xsk_rig;

use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::xdp::{AttachFailure, AttachMode, AttachPreference, Offloads, Steering, offloads};
use xsk_rig::{Namespace, device};

const ANY: AttachPreference = AttachPreference::NativeThenGeneric;

#[test]
fn a_device_with_another_program_is_refused_naming_it() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.veth("near", "far", 1);
    namespace.enter(|| {
        let near = device("near");
        let mut other = Steering::load().unwrap();
        assert_eq!(other.attach(near, "near", 1, ANY).unwrap(), AttachMode::Native);
        let mut ours = Steering::load().unwrap();
        for want in [ANY, AttachPreference::GenericOnly] {
            let error = ours.attach(near, "near", 1, want).unwrap_err();
            let AttachFailure::OtherProgram { id } = error.failure else { panic!("{error}") };
            let shown = error.to_string();
            assert!(
                id > 0 && shown.contains(&format!("id {id}")) && shown.contains("device near"),
                "{shown}"
            );
        }
        drop(other);
        assert_eq!(ours.attach(near, "near", 1, ANY).unwrap(), AttachMode::Native);
        assert!(matches!(ours.attach(near, "near", 1, ANY).unwrap_err().failure, AttachFailure::Twice));
        ours.detach(near).unwrap();
        assert_eq!(ours.attach(near, "near", 1, AttachPreference::GenericOnly).unwrap(), AttachMode::Generic);
    });
}

#[test]
fn a_device_without_native_xdp_gets_the_program_in_generic_mode() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.ip("link add switch type bridge");
    namespace.enter(|| {
        let mut steering = Steering::load().unwrap();
        assert_eq!(steering.attach(device("switch"), "switch", 1, ANY).unwrap(), AttachMode::Generic);
    });
}

#[test]
fn a_device_with_too_great_an_mtu_or_too_many_queues_or_none_is_refused() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.veth("near", "far", 1);
    namespace.ip("link set near mtu 9000");
    namespace.ip("link set far mtu 9000");
    namespace.enter(|| {
        let near = device("near");
        let mut steering = Steering::load().unwrap();
        let shown = steering.attach(near, "near", 1, ANY).unwrap_err().to_string();
        assert!(shown.contains("MTU"), "{shown}");
        for queues in [0, 65] {
            let error = steering.attach(near, "near", queues, ANY).unwrap_err();
            assert!(matches!(error.failure, AttachFailure::Queues { limit: 64, .. }), "{error}");
        }
        let shown = steering.attach(DeviceIndex(9999), "gone", 1, ANY).unwrap_err().to_string();
        assert!(shown.contains("no such device"), "{shown}");
        namespace.ip("link set near mtu 1500");
        namespace.ip("link set far mtu 1500");
        steering.attach(near, "near", 1, ANY).unwrap();
    });
}

#[test]
fn gro_is_switched_off_and_comes_back() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.veth("near", "far", 3);
    namespace.enter(|| {
        let found = Offloads::read("near").unwrap();
        let restore = Offloads::switch_off("near").unwrap();
        assert_eq!(restore.before, found);
        assert_eq!(Offloads::read("near").unwrap(), Offloads { gro: false, lro: false });
        let again = Offloads::switch_off("near").unwrap();
        assert_eq!(again.before, Offloads { gro: false, lro: false });
        let on = offloads::Restore { before: Offloads { gro: true, lro: false }, ..restore.clone() };
        on.restore().unwrap();
        assert_eq!(Offloads::read("near").unwrap(), Offloads { gro: true, lro: false });
        restore.restore().unwrap();
        assert_eq!(Offloads::read("near").unwrap(), found);
        assert_eq!(offloads::rx_queues("near").unwrap(), 3);
    });
}

#[test]
fn loading_without_privileges_says_what_is_missing() {
    // SAFETY: reads an id of this process.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: needs root");
        return;
    }
    let unprivileged = std::thread::spawn(|| {
        // SAFETY: the raw call changes this thread alone, which ends with the test. It drops all capabilities.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setuid, 65534) }, 0);
        Steering::load().map(|_| ()).unwrap_err().to_string()
    });
    let shown = unprivileged.join().unwrap();
    assert!(shown.contains("not permitted") && shown.contains("run as root"), "{shown}");
}
