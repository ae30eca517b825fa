//! Who may forward what.

use crate::config::tests::{error, good};
use crate::connection::forward::{GatewayPorts, Listening};

#[test]
fn agent_and_display_are_not_lent_unless_that_is_enabled() {
    let lent = |lines: &str| {
        let forwarding = good(lines).forwarding.everyone;
        (forwarding.connect, forwarding.agent, forwarding.x11)
    };
    assert_eq!(lent(""), (true, false, false));
    let all =
        "security: {forwarding: {forwardingMode: disable, agentForwardingMode: enable, x11ForwardingMode: enable}}";
    assert_eq!(lent(all), (false, true, true));
}

#[test]
fn forwarding_is_permitted_by_lists_of_addresses_and_ports() {
    let forwarding = |lines: &str| good(&format!("security: {{forwarding: {{{lines}}}}}")).forwarding.everyone;
    let lists = forwarding("permitOpen: ['db:5432', '[::1]:*'], permitListen: ['8080', 'localhost:*']");
    let (open, listen) = (lists.permit_open.unwrap(), lists.permit_listen.unwrap());
    assert!(open[0].covers(b"DB", 5432) && open[1].covers(b"::1", 1) && !open[0].covers(b"db", 1));
    assert!(listen[0].covers(b"", 8080) && listen[1].covers(b"localhost", 0) && !listen[1].covers(b"", 0));
    assert_eq!(forwarding("permitOpen: []").permit_open, Some(Vec::new()));
    assert_eq!(forwarding("").permit_open, None);
    assert_eq!(
        error("security: {forwarding: {permitOpen: [db]}}"),
        "2: security.forwarding.permitOpen[0]: must be HOST:PORT, where '*' stands for any, and an address with colons \
         is in brackets"
    );
}

#[test]
fn listening_is_as_in_sshd() {
    let listening = |lines: &str| good(&format!("security: {{forwarding: {{{lines}}}}}")).forwarding.everyone.listening;
    assert_eq!(listening(""), Listening { gateway_ports: GatewayPorts::No, unlink: false });
    assert_eq!(
        listening("gatewayPorts: clientspecified, streamLocalBindUnlink: yes"),
        Listening { gateway_ports: GatewayPorts::ClientSpecified, unlink: true }
    );
    assert_eq!(listening("gatewayPorts: yes").gateway_ports, GatewayPorts::Yes);
}

#[test]
fn a_users_forwarding_goes_over_everyones() {
    let forwarding = good(
        "auth: {users: {alice: {forwarding: {agentForwardingMode: enable, permitOpen: ['db:1']}}, bob: {forwarding: }}}\n\
         security: {forwarding: {forwardingMode: disable, permitOpen: ['*:80'], permitListen: ['1']}}",
    )
    .forwarding;
    let (alice, bob) = (forwarding.of("alice"), forwarding.of("bob"));
    assert_eq!((alice.agent, alice.connect, bob.agent, bob.connect), (true, false, false, false));
    let ports = |list: &Option<Vec<crate::auth::ForwardAddress>>| list.as_ref().unwrap()[0].port;
    assert_eq!((ports(&alice.permit_open), ports(&bob.permit_open)), (Some(1), Some(80)));
    assert_eq!(ports(&alice.permit_listen), Some(1));
    assert_eq!(
        error("auth: {users: {a.b: {forwarding: {x11ForwardingMode: maybe}}}}"),
        "2: auth.users.\"a.b\".forwarding.x11ForwardingMode: must be enable or disable"
    );
}
