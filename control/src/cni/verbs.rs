//! What each verb does.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use control_api::{
    connect::connect_engine,
    engine::ListPortsRequest,
    limits,
    node::{CniRequest, CniResponse},
};

use super::{
    Caller, CniError,
    delegate::{Call, DelegateError},
    network_config::{ANNOTATION_FIELD, CniVersion, NetworkConfig, parse_port_type},
    request::Target,
    response,
    result::{Made, addresses, default_gateways},
};
use crate::{
    attach::{Wanted, pod_network},
    attachment::{Attachment, Delegate, Means, Phase},
    compile::gateways,
    daemon::Daemon,
    ipam::AllocateError,
    link,
    netns::NetworkNamespace,
    port_type::PortType,
    store::{Store, StoreError},
    vhost_socket::{SHARED_VOLUME, VhostSocket},
};

impl Daemon {
    /// Does what the plugin passes on.
    ///
    /// Dropped before its end, as it is when the plugin's connection ends, an ADD is undone, a DEL
    /// or GC goes on to its end, and any other verb is abandoned.
    pub async fn cni(self: Arc<Self>, request: CniRequest) -> CniResponse {
        let limit = match &*request.command {
            "ADD" => limits::ATTACH,
            "STATUS" => limits::PLUGIN_STATUS,
            _ => limits::PLUGIN_OTHER,
        };
        let (_presence, caller) = Caller::new(limit);
        let work = tokio::spawn(async move {
            let started = Instant::now();
            let outcome = self.dispatch(&request, &caller).await;
            self.note(&request.command, &outcome, started.elapsed());
            outcome
        });
        response(
            work.await
                .unwrap_or_else(|_| Err(CniError::NotAvailable("control is stopping".to_owned()))),
        )
    }

    fn note(&self, verb: &str, outcome: &Result<Vec<u8>, CniError>, elapsed: Duration) {
        self.metrics.count_verb(verb, outcome.is_ok());
        match outcome {
            Ok(_) => tracing::info!(verb, ?elapsed, "done"),
            Err(error) => {
                let (code, causes) = (error.code(), error.to_message().details);
                tracing::warn!(verb, code, %error, causes, ?elapsed, "failed");
            }
        }
    }

    async fn dispatch(&self, request: &CniRequest, caller: &Caller) -> Result<Vec<u8>, CniError> {
        let config = NetworkConfig::parse(&request.config, &request.command)?;
        let needs = |verb, needed: CniVersion| {
            if config.version >= needed {
                return Ok(());
            }
            let found = config.version.as_str().to_owned();
            Err(CniError::TooOld { verb, needed: needed.as_str(), found })
        };
        match request.command.as_str() {
            "ADD" => self.add(request, &config, caller).await,
            "DEL" => self.del(request, &config).await.map(|()| Vec::new()),
            "CHECK" => {
                needs("CHECK", CniVersion::V0_4_0)?;
                caller.wait_for(self.check(request, &config)).await?.map(|()| Vec::new())
            }
            "STATUS" => {
                needs("STATUS", CniVersion::V1_1_0)?;
                caller.wait_for(self.status(request, &config)).await?.map(|()| Vec::new())
            }
            "GC" => {
                needs("GC", CniVersion::V1_1_0)?;
                self.collect(request, &config).await.map(|()| Vec::new())
            }
            other => Err(CniError::Environment {
                variable: "CNI_COMMAND",
                reason: format!("`{other}` is none of ADD, DEL, CHECK, STATUS, VERSION, GC"),
            }),
        }
    }

    async fn add(
        &self,
        request: &CniRequest,
        config: &NetworkConfig,
        caller: &Caller,
    ) -> Result<Vec<u8>, CniError> {
        let target = Target::parse(request)?;
        let node = self.desired.this_node()?;
        // What stands in the way of measuring it is in the status.
        let _problem = self.measure_uplink().await;
        let delegate = Delegate::from_config(config, &request.path, &request.args);
        let requested = if config.addresses.is_empty() {
            target.args.addresses.clone()
        } else {
            config.addresses.clone()
        };
        if delegate.is_some() && !requested.is_empty() {
            return Err(CniError::Config {
                field: "runtimeConfig.ips",
                reason: "addresses cannot be asked for while ipam.type names a plugin: leave the \
                         capability to it"
                    .to_owned(),
            });
        }
        let means = self.means(&target, config)?;
        let attachment = Attachment {
            key: target.key.clone(),
            phase: Phase::Adding,
            network: config.name.clone(),
            netns: request.netns.clone(),
            pod: target.pod(),
            addresses: Vec::new(),
            mac: config.mac.or(target.args.mac),
            mtu_bytes: self.pod_mtu_bytes(&node),
            host_interface: target.key.host_interface(),
            means,
            delegate,
        };
        let _lock = caller.wait_for(self.locks.lock(&target.key)).await?;
        let attached = self.attach(Wanted { attachment, addresses: requested }, caller).await?;
        let (attachment, defaults) = (attached.attachment, attached.defaults);
        let host = link::find(&self.netlink, &attachment.host_interface).await;
        let host_mac = host.ok().flatten().and_then(|link| link.mac);
        let gateways = gateways(&node);
        let made =
            Made { attachment: &attachment, host_mac, gateways: &gateways, defaults: &defaults };
        let rendered = made.render(config);
        if rendered.is_err() {
            // The runtime is told that it failed: then nothing may stay.
            self.detach(&target.key).await?;
        }
        rendered
    }

    /// What the container is to be attached by.
    fn means(&self, target: &Target, config: &NetworkConfig) -> Result<Means, CniError> {
        let cluster = self.desired.cluster().unwrap_or_default();
        let pod = cluster.pods.get(&target.pod());
        let port_type = match (config.port_type, pod.and_then(|pod| pod.port_type.as_deref())) {
            (Some(said), _) => said,
            (None, Some(annotated)) => parse_port_type(ANNOTATION_FIELD, annotated)?,
            (None, None) => self.config.pod_port_type,
        };
        Ok(match port_type {
            PortType::Veth => Means::Veth,
            PortType::Tap => Means::Tap,
            PortType::VhostUser => {
                let in_manifest = || pod.and_then(|pod| pod.shared_dir.clone());
                let of_kubelet = || Some(self.pod_volume(target.args.pod_uid.as_deref()?));
                let folder = config.shared_dir.clone().or_else(in_manifest).or_else(of_kubelet);
                let folder = folder.ok_or_else(|| CniError::Config {
                    field: "sharedDir",
                    reason: "missing: neither CNI_ARGS has a K8S_POD_UID nor the pod's manifest a \
                             hostPath volume shared-dir, so nothing says where the socket goes"
                        .to_owned(),
                })?;
                let run_folder = self.config.vhost_folder();
                let device_info = config.device_info.clone();
                Means::VhostUser(VhostSocket::place(&target.key, folder, &run_folder, device_info)?)
            }
        })
    }

    /// Where kubelet keeps a pod's emptyDir for sockets.
    fn pod_volume(&self, uid: &str) -> PathBuf {
        let volumes = "volumes/kubernetes.io~empty-dir";
        self.config.kubelet_dir.join("pods").join(uid).join(volumes).join(SHARED_VOLUME)
    }

    async fn del(&self, request: &CniRequest, config: &NetworkConfig) -> Result<(), CniError> {
        let target = Target::parse(request)?;
        let _lock = self.locks.lock(&target.key).await;
        let is_recorded = match self.record(&target.key).await {
            // It does not say which IPAM plugin to tell; the configuration does.
            Err(StoreError::Record { .. }) => false,
            found => found?.is_some(),
        };
        self.detach(&target.key).await?;
        // Without a record, the IPAM plugin may still know it: from before our database was lost.
        let delegate = Delegate::from_config(config, &request.path, &request.args);
        if let Some(delegate) = delegate.filter(|_| !is_recorded) {
            let call = Call { delegate: &delegate, key: Some(&target.key), netns: &request.netns };
            match call.run("DEL").await {
                // A plugin that is not there cannot give back anything, now or later.
                Err(error @ DelegateError::NotFound { .. }) => {
                    tracing::warn!(key = %target.key, %error);
                }
                result => drop(result?),
            }
        }
        Ok(())
    }

    async fn check(&self, request: &CniRequest, config: &NetworkConfig) -> Result<(), CniError> {
        let target = Target::parse(request)?;
        let previous = config.previous.as_ref().ok_or_else(|| CniError::Config {
            field: "prevResult",
            reason: "missing: CHECK compares with the result of ADD".to_owned(),
        })?;
        let unknown = || CniError::UnknownContainer {
            container_id: target.key.container_id.clone(),
            ifname: target.key.ifname.clone(),
        };
        let _lock = self.locks.lock(&target.key).await;
        let attachment = self.record(&target.key).await?.ok_or_else(unknown)?;
        if attachment.phase != Phase::Ready {
            return Err(unknown());
        }
        let said = addresses(previous);
        if let Some(address) = attachment.addresses.iter().find(|ip| !said.contains(ip)) {
            let reason = format!("it lacks {address}, which the container has");
            return Err(CniError::Config { field: "prevResult", reason });
        }
        let netns = NetworkNamespace::open(Path::new(&request.netns))?;
        if attachment.means == Means::Veth {
            let interface = &attachment.host_interface;
            let host = link::find(&self.netlink, interface).await?;
            if !host.is_some_and(|link| link.is_up) {
                return Err(CniError::NoHostInterface { interface: interface.clone() });
            }
        }
        if let Some(socket) = attachment.means.socket() {
            socket.check()?;
        } else {
            let pod = pod_network(&attachment, &self.desired.this_node()?);
            let defaults = default_gateways(previous);
            netns.run(async move |handle| pod.check(&handle, &defaults).await).await??;
        }
        if let Some(delegate) = &attachment.delegate {
            let delegate = Delegate { config: config.text.clone(), ..delegate.clone() };
            let call = Call { delegate: &delegate, key: Some(&target.key), netns: &request.netns };
            call.run("CHECK").await?;
        }
        self.check_port(&attachment.port()).await
    }

    /// Whether the engine has the port, and has it open.
    async fn check_port(&self, port: &str) -> Result<(), CniError> {
        let unreachable = |reason: String| CniError::NotAvailableAndCutOff(reason);
        let mut engine = connect_engine(self.engine_socket())
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let answer = engine.list_ports(ListPortsRequest {}).await;
        let mut ports =
            answer.map_err(|status| unreachable(status.message().to_owned()))?.into_inner();
        while let Some(status) =
            ports.message().await.map_err(|status| unreachable(status.message().to_owned()))?
        {
            if status.name == port {
                return match status.state.as_str() {
                    "up" => Ok(()),
                    _ => Err(CniError::Port { port: status.name, message: status.detail }),
                };
            }
        }
        Err(CniError::NoPort { port: port.to_owned() })
    }

    async fn status(&self, request: &CniRequest, config: &NetworkConfig) -> Result<(), CniError> {
        let not_available =
            |error: &dyn std::fmt::Display| CniError::NotAvailable(error.to_string());
        self.desired.this_node().map_err(|error| not_available(&error))?;
        let state = self.desired.engine().state();
        if state.engine.is_none() {
            let reason = state.trouble.map_or_else(
                || "the engine is not connected".to_owned(),
                |trouble| trouble.to_string(),
            );
            return Err(CniError::NotAvailableAndCutOff(reason));
        }
        if let Some(trouble) = state.trouble {
            return Err(not_available(&trouble));
        }
        match Delegate::from_config(config, &request.path, &request.args) {
            Some(delegate) => self.ask_status(&delegate).await,
            None => self.check_addresses().await,
        }
    }

    /// The IPAM plugin's own STATUS, if it has one.
    async fn ask_status(&self, delegate: &Delegate) -> Result<(), CniError> {
        match (Call { delegate, key: None, netns: "" }).run("STATUS").await {
            Err(error) if !error.is_unknown_verb() => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn check_addresses(&self) -> Result<(), CniError> {
        let plan = self.address_plan();
        if plan.ranges.is_empty() {
            let error = AllocateError::NoRange;
            return Err(CniError::NotAvailable(error.to_string()));
        }
        for usage in self.usage().await? {
            // A pod that nothing is promised to finds neither kind free.
            if usage.used.saturating_add(usage.reserved) >= usage.capacity {
                let (range, capacity) = (usage.range, usage.capacity);
                let error = AllocateError::Exhausted { range, capacity };
                return Err(CniError::NotAvailable(error.to_string()));
            }
        }
        Ok(())
    }

    async fn collect(&self, request: &CniRequest, config: &NetworkConfig) -> Result<(), CniError> {
        let valid = config.valid.as_ref().ok_or_else(|| CniError::Config {
            field: "cni.dev/valid-attachments",
            reason: "missing: without it, GC would remove every attachment".to_owned(),
        })?;
        let records = self.with_store(Store::attachments).await?.into_values();
        let unreadable = self.with_store(Store::unreadable).await?.into_iter();
        // One that does not even tell its network may belong to another.
        let known = records
            .map(|record| (record.key, record.network))
            .chain(unreadable.filter_map(|bad| Some((bad.key, bad.network?))));
        let mut failures = Vec::new();
        for (key, _) in known.filter(|(key, of)| *of == config.name && !valid.contains(key)) {
            let _lock = self.locks.lock(&key).await;
            if let Err(error) = self.detach(&key).await {
                failures.push(format!("{key}: {error}"));
            }
        }
        if let Some(delegate) = Delegate::from_config(config, &request.path, &request.args) {
            match (Call { delegate: &delegate, key: None, netns: "" }).run("GC").await {
                Err(error) if !error.is_unknown_verb() => failures.push(error.to_string()),
                _ => {}
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(CniError::Collect { failures }) }
    }
}
