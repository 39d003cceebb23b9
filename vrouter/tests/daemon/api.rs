//! The programming interface, as its clients see it.

use control_api::{
    EXPLAIN_QUERIES_MAX,
    engine::{
        AddressSet, ApplyHeader, ApplyRequest, ExplainQuery, ExplainRequest, GetStatusRequest,
        HandshakeRequest, ListDropExamplesRequest, ListDropsRequest, ListFlowsRequest,
        ListNeighboursRequest, ListPortsRequest, ListRoutesRequest, ListTunnelsRequest,
        ListWorkersRequest, ObjectBatch, ObjectKey, PolicyRule, PolicySet, ProtocolPorts,
        apply_request::Part, direction_verdict::Verdict, next_hop, object::Kind, object_key,
    },
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;
use tonic::{Code, Streaming};
use vrouter::drops::DropReason;

use crate::rig::{Rig, apply, guest, object, route, send, small_node};

async fn all<T>(answer: tonic::Response<Streaming<T>>) -> Vec<T> {
    answer.into_inner().map(Result::unwrap).collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_another_major_version_is_told_both() {
    let rig = Rig::new();
    let _daemon = rig.start();
    let mut client = rig.client().await;
    let request =
        HandshakeRequest { client: "old-control".into(), protocol_major: 99, protocol_minor: 3 };
    let status = client.handshake(request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let major = control_api::PROTOCOL_MAJOR;
    for text in ["old-control", "99.3", &format!("engine {major}.")] {
        assert!(status.message().contains(text), "{}", status.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_applied_is_what_is_listed() {
    let rig = Rig::new();
    let _daemon = rig.start();
    let mut client = rig.client().await;
    let applied = apply(&mut client, 5, small_node()).await.unwrap();
    assert_eq!(applied.generation, 5);
    assert_eq!(applied.port_errors, []);

    let status = client.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.node_name.as_str(), status.generation), ("node-a", 5));
    assert_eq!((status.ports, status.tunnels), (3, 1));
    assert!(status.config_version >= applied.config_version);
    assert!(status.frames_free <= status.frames_total && status.frames_total > 0);
    // Huge pages or not: that is no fault.
    assert!(!status.warnings.iter().any(|warning| warning.contains("huge pages")));
    assert_eq!(status.notes.is_empty(), status.huge_pages);
    // Nobody answers for the other node here.
    assert!(status.warnings.iter().any(|warning| warning.contains("tunnel node-b/ipv4")));

    let ports = all(client.list_ports(ListPortsRequest {}).await.unwrap()).await;
    let names: Vec<_> = ports.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["default/client", "default/web", "uplink"]);
    for port in &ports {
        assert_eq!((port.state.as_str(), port.backend.as_str()), ("up", "memory"), "{port:?}");
    }

    let routes = client.list_routes(ListRoutesRequest::default()).await.unwrap();
    assert_eq!(all(routes).await.len() as u64, status.routes);
    let tunnels = all(client.list_tunnels(ListTunnelsRequest {}).await.unwrap()).await;
    assert_eq!(tunnels.len(), 1);
    assert_eq!(tunnels[0].local, [192, 0, 2, 1]);
    assert_ne!(tunnels[0].state, "up");
    let neighbours = all(client.list_neighbours(ListNeighboursRequest {}).await.unwrap()).await;
    assert!(neighbours.iter().any(|it| it.port == "default/web" && it.state == "static"));
    let workers = all(client.list_workers(ListWorkersRequest {}).await.unwrap()).await;
    assert_eq!(workers.len(), 1);
    assert!(workers[0].config_version >= applied.config_version);
    assert!(workers[0].cpu >= 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_is_found_by_the_address_that_takes_it() {
    let rig = Rig::new();
    let _daemon = rig.start();
    let mut client = rig.client().await;
    apply(&mut client, 1, small_node()).await.unwrap();
    let mut find = async |address: Vec<u8>| {
        let request = ListRoutesRequest { address, ..ListRoutesRequest::default() };
        client.list_routes(request).await
    };
    let found = all(find(vec![10, 244, 2, 77]).await.unwrap()).await;
    let via = found[0].route.as_ref().unwrap().next_hops[0].via.clone();
    assert_eq!(via, Some(next_hop::Via::Tunnel("node-b/ipv4".into())));
    let own = all(find(vec![10, 244, 1, 11]).await.unwrap()).await;
    assert_eq!(own[0].origin, "port");
    assert!(all(find(vec![203, 0, 113, 1]).await.unwrap()).await.is_empty());
    assert_eq!(find(vec![1, 2, 3]).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_not_possible_changes_nothing() {
    let rig = Rig::new();
    let _daemon = rig.start();
    let mut client = rig.client().await;
    apply(&mut client, 1, small_node()).await.unwrap();
    let orphan = route([10, 9, 0, 0], 16, next_hop::Via::Tunnel("nowhere/ipv4".into()));
    let status = apply(&mut client, 2, vec![guest("default/new", [10, 244, 1, 12]), orphan]).await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("10.9.0.0/16"), "{}", status.message());
    assert!(status.message().contains("nowhere/ipv4"), "{}", status.message());
    let ports = all(client.list_ports(ListPortsRequest {}).await.unwrap()).await;
    assert_eq!(ports.len(), 3);
    let again = client.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(again.generation, 1);
    // A generation that is not greater is no way back.
    let status = apply(&mut client, 1, Vec::new()).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    // Bad addresses, masks and the like are the client's fault.
    let bad = vec![guest("default/web2", [224, 0, 0, 1])];
    assert_eq!(apply(&mut client, 3, bad).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_sync_sweeps_what_it_does_not_name_and_deletes_delete() {
    let rig = Rig::new();
    let _daemon = rig.start();
    let mut client = rig.client().await;
    apply(&mut client, 1, small_node()).await.unwrap();
    let key = object_key::Kind::Port("default/web".into());
    let deletes = vec![ObjectKey { kind: Some(key) }];
    let header = ApplyHeader { generation: 2, full_sync: false };
    send(&mut client, header, ObjectBatch { upserts: Vec::new(), deletes }).await.unwrap();
    let mut upserts = small_node();
    upserts.retain(|object| *object != guest("default/client", [10, 244, 1, 10]));
    let header = ApplyHeader { generation: 3, full_sync: true };
    send(&mut client, header, ObjectBatch { upserts, deletes: Vec::new() }).await.unwrap();
    let ports = all(client.list_ports(ListPortsRequest {}).await.unwrap()).await;
    let names: Vec<_> = ports
        .iter()
        .filter(|port| port.state != "closing")
        .map(|port| port.name.as_str())
        .collect();
    assert_eq!(names, ["default/web", "uplink"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_begins_with_one_header() {
    let rig = Rig::new();
    let _daemon = rig.start();
    let mut client = rig.client().await;
    let header = || Part::Header(ApplyHeader { generation: 1, full_sync: false });
    let objects = || Part::Objects(ObjectBatch::default());
    for parts in [vec![], vec![Some(objects())], vec![Some(header()), Some(header())], vec![None]] {
        let requests: Vec<_> = parts.into_iter().map(|part| ApplyRequest { part }).collect();
        let status = client.apply(tokio_stream::iter(requests)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains("header"), "{}", status.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_cannot_be_opened_does_not_fail_the_batch() {
    use control_api::engine::{AfXdpBackend, object::Kind, port};
    let rig = Rig::new();
    let _daemon = rig.start();
    let mut client = rig.client().await;
    let mut objects = small_node();
    let mut missing = guest("default/gone", [10, 244, 1, 13]);
    if let Some(Kind::Port(object)) = &mut missing.kind {
        let interface = "vr-missing".to_owned();
        object.backend =
            Some(port::Backend::AfXdp(AfXdpBackend { interface, ..AfXdpBackend::default() }));
    }
    objects.push(missing);
    let applied = apply(&mut client, 1, objects).await.unwrap();
    assert_eq!(applied.port_errors.len(), 1);
    assert_eq!(applied.port_errors[0].port, "default/gone");
    assert!(applied.port_errors[0].message.contains("vr-missing"));
    let ports = all(client.list_ports(ListPortsRequest {}).await.unwrap()).await;
    let gone = ports.iter().find(|port| port.name == "default/gone").unwrap();
    assert_eq!(gone.state, "down");
    assert!(gone.detail.contains("vr-missing"));
    assert_eq!(ports.iter().filter(|port| port.state == "up").count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn drops_are_listed_with_what_they_mean() {
    let rig = Rig::new();
    let _daemon = rig.start();
    let mut client = rig.client().await;
    apply(&mut client, 1, small_node()).await.unwrap();
    let none = all(client.list_drops(ListDropsRequest { all: false }).await.unwrap()).await;
    assert!(none.is_empty(), "{none:?}");
    let drops = all(client.list_drops(ListDropsRequest { all: true }).await.unwrap()).await;
    // Each port, and what belongs to none.
    assert_eq!(drops.len(), DropReason::COUNT * 4);
    assert!(drops.iter().all(|drop| !drop.description.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_examples_of_an_unknown_reason_are_an_error() {
    let rig = Rig::new();
    let _daemon = rig.start();
    let mut client = rig.client().await;
    apply(&mut client, 1, small_node()).await.unwrap();
    let of = |reason: &str| ListDropExamplesRequest {
        reason: reason.into(),
        ..ListDropExamplesRequest::default()
    };
    for reason in ["", "route_none"] {
        let examples = client.list_drop_examples(of(reason)).await.unwrap();
        assert!(all(examples).await.is_empty());
    }
    let status = client.list_drop_examples(of("route_nonw")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("route_nonw"), "{}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_of_a_port_that_is_not_there_are_an_error() {
    let rig = Rig::new();
    let _daemon = rig.start();
    let mut client = rig.client().await;
    apply(&mut client, 1, small_node()).await.unwrap();
    assert!(all(client.list_flows(ListFlowsRequest::default()).await.unwrap()).await.is_empty());
    let of = |port: &str| ListFlowsRequest { port: port.into(), ..ListFlowsRequest::default() };
    assert!(all(client.list_flows(of("default/web")).await.unwrap()).await.is_empty());
    let status = client.list_flows(of("default/none")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("default/none"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_describes_itself() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let rig = Rig::new();
    let _daemon = rig.start();
    // Any client on the same connection: reflection is a service of its own.
    let stream = tokio::net::UnixStream::connect(rig.socket()).await.unwrap();
    let mut once = Some(hyper_util::rt::TokioIo::new(stream));
    let channel = tonic::transport::Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_: tonic::transport::Uri| {
            let stream = once.take();
            async move { stream.ok_or_else(|| std::io::Error::other("one connection only")) }
        }))
        .await
        .unwrap();
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let answer = all(answers).await.remove(0).message_response.unwrap();
    let MessageResponse::ListServicesResponse(services) = answer else { panic!("no list") };
    assert!(services.service.iter().any(|service| service.name == "vrouter.v1.Engine"));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_of_ports_and_workers() {
    let rig = Rig::new();
    let mut daemon = rig.spawn();
    let line = daemon.wait_for_line("metrics");
    let address = line.rsplit('=').next().unwrap().trim().to_owned();
    daemon.wait_for_line("ready");
    let mut client = rig.client().await;
    apply(&mut client, 1, small_node()).await.unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    for line in [
        "vrouter_port_up{port=\"default/web\"} 1",
        "vrouter_port_packets_total{port=\"uplink\",direction=\"rx\"} 0",
        "vrouter_tunnel_up{tunnel=\"node-b/ipv4\"} 0",
        "vrouter_worker_stalls_total{worker=\"0\"}",
        "vrouter_config_generation 1",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line} is missing from:\n{text}");
    }
}

/// The small node, whose pod `web` takes TCP port 80 from 10.244.2.7 and from `client`.
fn isolated_node() -> Vec<control_api::engine::Object> {
    let rule = PolicyRule {
        address_sets: vec![7],
        ports: vec![ProtocolPorts { protocol: 6, first: 80, last: 80 }],
        path: "spec.ingress[0].from[1]".into(),
        ..PolicyRule::default()
    };
    let set = PolicySet { id: 9, policies: vec!["default/web".into()], rules: vec![rule] };
    let ipv4 = [[10, 244, 1, 10], [10, 244, 2, 7]].concat();
    let mut objects = small_node();
    for object in &mut objects {
        if let Some(Kind::Port(port)) = &mut object.kind
            && port.name == "default/web"
        {
            port.ingress_policy = 9;
        }
    }
    objects.push(object(Kind::PolicySet(set)));
    objects.push(object(Kind::AddressSet(AddressSet { id: 7, ipv4, ipv6: Vec::new() })));
    objects
}

fn query(source: [u8; 4], destination: [u8; 4], port: u32) -> ExplainQuery {
    ExplainQuery {
        source: source.into(),
        destination: destination.into(),
        protocol: 6,
        destination_port: Some(port),
        ..ExplainQuery::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_explained_by_port_policies_and_rule_of_both_ends() {
    let rig = Rig::new();
    let _daemon = rig.start();
    let mut client = rig.client().await;
    apply(&mut client, 1, isolated_node()).await.unwrap();
    let web = [10, 244, 1, 11];
    let queries = vec![
        query([10, 244, 1, 10], web, 80),
        query([10, 244, 2, 7], web, 81),
        query(web, [10, 244, 2, 7], 80),
        query(web, web, 8080),
    ];
    let answer = client.explain(ExplainRequest { queries }).await.unwrap().into_inner();
    assert_eq!(answer.generation, 1);
    let verdicts: Vec<_> = answer
        .explanations
        .iter()
        .map(|it| [&it.egress, &it.ingress].map(|it| it.as_ref().unwrap().verdict()))
        .collect();
    assert_eq!(
        verdicts,
        [
            [Verdict::NotIsolated, Verdict::Allowed],
            [Verdict::NotHere, Verdict::Denied],
            [Verdict::NotIsolated, Verdict::NotHere],
            [Verdict::Itself, Verdict::Itself],
        ]
    );
    let allowed = answer.explanations[0].ingress.clone().unwrap();
    assert_eq!((allowed.port.as_str(), allowed.policy_set), ("default/web", 9));
    assert_eq!(allowed.policies, ["default/web"]);
    let rule = allowed.rule.unwrap();
    assert_eq!(
        (rule.policy.as_str(), rule.path.as_str()),
        ("default/web", "spec.ingress[0].from[1]")
    );
    let denied = answer.explanations[1].ingress.clone().unwrap();
    assert_eq!((denied.policies, denied.rule), (vec!["default/web".to_owned()], None));
    let ports = all(client.list_ports(ListPortsRequest {}).await.unwrap()).await;
    let web = ports.iter().find(|port| port.name == "default/web").unwrap();
    assert_eq!((web.ingress_policy, web.egress_policy), (9, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_about_policy_that_is_not_possible_is_refused_with_its_field() {
    let rig = Rig::new();
    let _daemon = rig.start();
    let mut client = rig.client().await;
    apply(&mut client, 1, small_node()).await.unwrap();
    let good = query([10, 244, 1, 10], [10, 244, 1, 11], 80);
    let with = |change: &dyn Fn(&mut ExplainQuery)| {
        let mut query = good.clone();
        change(&mut query);
        vec![query]
    };
    for (queries, code, text) in [
        (with(&|it| it.vrf = 5), Code::NotFound, "vrf: there is no VRF 5"),
        (with(&|it| it.source.clear()), Code::InvalidArgument, "address: 0 bytes"),
        (with(&|it| it.destination = vec![0; 16]), Code::InvalidArgument, "of two families"),
        (with(&|it| it.protocol = 256), Code::InvalidArgument, "protocol: 256 is out of range"),
        (
            with(&|it| it.destination_port = Some(65_536)),
            Code::InvalidArgument,
            "destination_port: 65536 is out of range",
        ),
        (vec![good.clone(); EXPLAIN_QUERIES_MAX + 1], Code::InvalidArgument, "ask 4096 at a time"),
    ] {
        let status = client.explain(ExplainRequest { queries }).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
    }
}
