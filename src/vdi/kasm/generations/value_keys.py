"""Values that each generation's chart reads, as text for `ValueKeys`.

A chart's own JSON schema is not enough: B's lets unknown keys pass at the top level, C's
everywhere; A's refuses them without naming the right one.
"""

from vdi.kasm.generations.model import ValueKeys, VersionRange

_A_SCALED = "{kasmProxy,kasmApi,kasmManager,kasmGuac,rdpGateway,rdpHttpsGateway,kasmShare}"
KEYS_A = ValueKeys(
    f"""

    global: namespace clusterDomain ingressClassName hostname altHostnames*
    global.image: pullSecrets pullPolicy restartPolicy pullCredentials*
    global.kasmPasswords: redisPassword dbPassword managerToken serviceToken adminPassword userPassword
    kasmApp: name zoneName applyHardening deploymentSize
    kasmApp.servicesToDeploy.{_A_SCALED}: name image tag addHealthChecks resources* replicas
    kasmApp.servicesToDeploy.{{kasmRedis,db}}: name image tag addHealthChecks resources*
    kasmApp.servicesToDeploy.{{kasmGuac,rdpGateway,rdpHttpsGateway,kasmShare,kasmRedis}}: deploy
    kasmApp.servicesToDeploy.kasmProxy: serviceKeepalive
    kasmApp.servicesToDeploy.db: storageClassName
    kasmApp.servicesToDeploy.db.persistentVolumeClaimRetentionPolicy: enabled whenDeleted whenScaled
    kasmCerts.{{ingress,kasmProxy,rdpGateway,db}}: name create cert key
    """,
    versions={"global.ingressClassName": VersionRange(since=(1, 16, 1))},
)

_B_AND_C = """
    : deploymentSize publicAddr kasmZones* imagePullPolicy clusterDomain nodeSelector* affinity* applySecurity
    : applyHealthChecks restartPolicy labels* extraObjects*
    proxyService: type annotations* labels*
    ingress: enabled tls backendProtocol ingressClassName annotations* labels*
    route: enabled tls* annotations* labels*
    certificate: secretName
    certificate.certManager: enabled addWildCard issuerName issuerKind issuerGroup annotations* labels*
    database: standalone hostname port kasmDbName kasmDbUser kasmDbSecret.{name,key} annotations* labels* resources*
    database.postgresMasterUser: username secret.{name,key}
    database.storage: storageClassName pvcSize retentionPolicy.{whenDeleted,whenScaled}
    dbManagement: initialize
    dbManagement.upgrade: enable oldDbSecretsName oldDbBackupFileName
    dbManagement.backupCron: enabled pvcName schedule timeZone storageClass pvcSize
    components.{proxy,api,manager,guac,rdpGateway,rdpHttpsGateway}: annotations* labels* resources*
    components.{proxy,api,manager,guac,rdpGateway,rdpHttpsGateway}: extraVolumes* extraVolumeMounts*
    components.{guac,rdpGateway,rdpHttpsGateway}: enabled
    imagePullSecrets: enabled name username password email labels* annotations*
    """
_B_KINDS = "{certSecret,configMap,cron,cronPod,deployment,pod,pvc,service,secret,statefulSet}"
_UP_TO_1170 = VersionRange(until=(1, 1170))
KEYS_B = ValueKeys(
    _B_AND_C.rstrip()
    + f"""
    ingress: extraHosts*
    database.image: repository tag
    dbManagement.upgrade: oldDbBackupPvc
    components.{{proxy,api,manager,guac,rdpGateway,rdpHttpsGateway,share,redis}}: image.{{repository,tag}}
    components.{{proxy,api,manager,guac,rdpGateway,rdpHttpsGateway,share,redis}}: initContainers*
    components.{{share,redis}}: enabled annotations* labels* resources* extraVolumes* extraVolumeMounts*
    components.api: ttlBeforeDelete
    imagePullSecrets: type server
    annotations: {_B_KINDS}*
    extraLabels: {_B_KINDS}* job* jobPod*
    """,
    versions={"components.redis": _UP_TO_1170, "components.share": _UP_TO_1170},
    zone=("name", "upstream_auth_addr"),
)

_C_KINDS = "{configMap,cronJob,cronPod,deployment,job,pod,pvc,service,secret,statefulSet}"
_GATEWAYS = "{guac,rdpGateway,rdpHttpsGateway}"
_FROM_1190_1, _FROM_1190_5 = VersionRange(since=(1, 1190, 1)), VersionRange(since=(1, 1190, 5))
_APART = VersionRange(until=(1, 1190, 7))
KEYS_C = ValueKeys(
    _B_AND_C.rstrip()
    + f"""
    : isOpenshift logFormat nginxResolver useImageTags httpRoute* tlsRoute* tcpRoute* upstreamAuth* serviceAccount*
    : networkPolicy* annotations* extraVolumes* extraContainerVolumeMounts* extraInitVolumeMounts*
    : extraContainers* extraInitContainers*
    proxyService: nodePort
    directRdpService: enabled rdpAccessURL type loadBalancerPort annotations* labels* perServiceSettings*
    route: backendProtocol wildcardPolicy
    trustedCaBundle: enabled configMapName caCerts*
    kasmSecrets: create name passwords* annotations* labels*
    kasmConfig: generatePreseed defaultUsers defaultApiUsers adminUsername authDomain config*
    kasmConfig.existingDefaultPropertiesSecret: name key
    database: image.{{registry,repository,tag}} healthCheckTiming*
    database: extra{{Volumes,VolumeMounts,Containers,InitContainers}}*
    dbManagement: initJobTTLSecondsAfterFinished dbConnectionTimeout
    dbManagement.upgrade: oldDbHostname skipBackupAndRestore backupStorageClass
    components.{{proxy,api,manager,guac,rdpGateway,rdpHttpsGateway}}: image.{{registry,repository,tag}} replicas
    components.{{proxy,api,manager,guac,rdpGateway,rdpHttpsGateway}}: healthCheckTiming*
    components.{{proxy,api,manager,guac,rdpGateway,rdpHttpsGateway}}: extra{{Containers,InitContainers}}*
    components.{_GATEWAYS}.nginxSidecar: resources* healthCheckTiming* extraVolumes* extraVolumeMounts*
    components.api: threadPool threadPoolLogInterval
    components.manager: updateTimer supportBundleTimer
    components.guac: guacClusterSize recordingData.{{pvcSize,storageClassName}}
    components.rdpGateway: iniConfigMapName
    components.connectionProxy: enabled replicas annotations* labels*
    components.connectionProxy: extra{{Volumes,VolumeMounts,Containers,InitContainers}}*
    components.connectionProxy.{_GATEWAYS}: enabled
    components.connectionProxy.{{nginx,guac,rdpGateway,rdpHttpsGateway}}: image.{{registry,repository,tag}} resources*
    components.connectionProxy.{{nginx,guac,rdpGateway,rdpHttpsGateway}}: healthCheckTiming*
    components.connectionProxy.guac: guacClusterSize recordingData.{{pvcSize,storageClassName}}
    components.connectionProxy.rdpGateway: iniConfigMapName
    imagePullSecrets: registry
    extraAnnotations: {_C_KINDS}*
    extraLabels: {_C_KINDS}*
    """,
    versions={
        "nginxResolver": _FROM_1190_5,
        "kasmSecrets": _FROM_1190_5,
        "kasmConfig": VersionRange(since=(1, 1190, 3)),
        "logFormat": _FROM_1190_1,
        "dbManagement.dbConnectionTimeout": _FROM_1190_1,
        "components.api.threadPool": _FROM_1190_1,
        "components.api.threadPoolLogInterval": _FROM_1190_1,
        **{f"components.{part}": _APART for part in ("guac", "rdpGateway", "rdpHttpsGateway")},
        "components.connectionProxy": VersionRange(since=(1, 1190, 8)),
        "proxyService.nodePort": VersionRange(since=(1, 1200)),
    },
    zone=(
        "name",
        "zone_name",
        "proxy_hostname",
        "proxyAddress",
        "region_name",
        "primary",
        "seedOnly",
    ),
)
