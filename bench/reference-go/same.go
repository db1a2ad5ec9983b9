package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// What vdi writes for the bench's sessions, field by field (src/vdi/session/children). With --same-objects the
// reference writes it too, so that only the operators differ, and not what they ask of the API server.

const (
	agentPort   = 8082
	appliedHash = "0123456789abcdef" // vdi marks what it repairs with a hash of what it wrote
)

func sameChildren(s *VDISession, image string) children {
	pod := &corev1.Pod{ObjectMeta: sameMeta(s, s.Name, "vdi.kasm.io/template-revision", "1"), Spec: samePodSpec(s, image)}
	pod.Labels["vdi.kasm.io/hold"] = "true"
	svc := &corev1.Service{ObjectMeta: sameMeta(s, s.Name, "vdi.kasm.io/applied-hash", appliedHash), Spec: svcSpec(s)}
	svc.Spec.Ports[0].TargetPort = intstr.FromString("http")
	route := &IngressRoute{ObjectMeta: sameMeta(s, s.Name, "vdi.kasm.io/applied-hash", appliedHash), Spec: routeSpec(s)}
	route.Annotations["vdi.kasm.io/host"] = host(s)
	home := &corev1.PersistentVolumeClaim{ObjectMeta: sameMeta(s, s.Name+"-home"), Spec: pvcSpec()}
	delete(home.Labels, sessionLabel)
	return children{
		pod: pod,
		others: []child{
			{&corev1.PersistentVolumeClaim{}, home},
			{&corev1.Service{}, svc},
			{&IngressRoute{}, route},
			{&corev1.Secret{}, sameSecret(s)},
		},
	}
}

func sameMeta(s *VDISession, name string, annotation ...string) metav1.ObjectMeta {
	m := meta(s, name)
	m.Annotations = map[string]string{"vdi.kasm.io/user": s.Spec.User, "vdi.kasm.io/template": s.Spec.Template}
	if len(annotation) == 2 {
		m.Annotations[annotation[0]] = annotation[1]
	}
	return m
}

func sameSecret(s *VDISession) client.Object {
	yes := true
	return &corev1.Secret{
		ObjectMeta: sameMeta(s, s.Name+"-auth"),
		Type:       corev1.SecretTypeOpaque,
		Immutable:  &yes,
		StringData: withDigests(map[string]string{"password": word(), "agentToken": word()}),
	}
}

func withDigests(words map[string]string) map[string]string {
	for _, key := range []string{"password", "agentToken"} {
		digest := sha256.Sum256([]byte(words[key]))
		words[key+"Sha256"] = hex.EncodeToString(digest[:])
	}
	return words
}

func word() string {
	random := make([]byte, 18)
	_, _ = rand.Read(random) // never fails, says its documentation
	return base64.RawURLEncoding.EncodeToString(random)
}

func samePodSpec(s *VDISession, image string) corev1.PodSpec {
	yes, no, user, grace := true, false, int64(1000), int64(3)
	onMismatch := corev1.FSGroupChangeOnRootMismatch
	shm := resource.MustParse("1Gi")
	secret := func(key string) *corev1.EnvVarSource {
		ref := corev1.LocalObjectReference{Name: s.Name + "-auth"}
		return &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref, Key: key}}
	}
	probe := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/api/health", Port: intstr.FromString("http")}}
	return corev1.PodSpec{
		RestartPolicy:                 corev1.RestartPolicyAlways,
		TerminationGracePeriodSeconds: &grace,
		AutomountServiceAccountToken:  &no,
		EnableServiceLinks:            &no,
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: &yes, RunAsUser: &user, RunAsGroup: &user, FSGroup: &user, FSGroupChangePolicy: &onMismatch,
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{{
			Name:                     "desktop",
			Image:                    image,
			ImagePullPolicy:          corev1.PullIfNotPresent,
			TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
			Ports: []corev1.ContainerPort{
				{Name: "http", ContainerPort: port, Protocol: corev1.ProtocolTCP},
				{Name: "agent", ContainerPort: agentPort, Protocol: corev1.ProtocolTCP},
			},
			Env: []corev1.EnvVar{
				{Name: "SELKIES_PORT", Value: "8080"},
				{Name: "SELKIES_ENABLE_BASIC_AUTH", Value: "true"},
				{Name: "SELKIES_BASIC_AUTH_USER", Value: "user"},
				{Name: "SELKIES_BASIC_AUTH_PASSWORD", ValueFrom: secret("password")},
				{Name: "VDI_AGENT_PORT", Value: "8082"},
				{Name: "VDI_AGENT_TOKEN_SHA256", ValueFrom: secret("agentTokenSha256")},
			},
			Resources: corev1.ResourceRequirements{
				Limits: corev1.ResourceList{
					"cpu": resource.MustParse("2"), "memory": resource.MustParse("4Gi"), "nvidia.com/gpu": resource.MustParse("1"),
				},
				Requests: corev1.ResourceList{"cpu": resource.MustParse("250m"), "memory": resource.MustParse("1Gi")},
			},
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: &no,
				Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
			VolumeMounts: []corev1.VolumeMount{
				{Name: "shm", MountPath: "/dev/shm"},
				{Name: "home", MountPath: "/home/user"},
			},
			ReadinessProbe: &corev1.Probe{ProbeHandler: probe, PeriodSeconds: 1, TimeoutSeconds: 3, FailureThreshold: 5},
			LivenessProbe: &corev1.Probe{
				ProbeHandler: probe, InitialDelaySeconds: 30, PeriodSeconds: 10, TimeoutSeconds: 5, FailureThreshold: 6,
			},
		}},
		Volumes: []corev1.Volume{
			{Name: "shm", VolumeSource: corev1.VolumeSource{
				EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &shm},
			}},
			{Name: "home", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: s.Name + "-home"},
			}},
		},
	}
}
