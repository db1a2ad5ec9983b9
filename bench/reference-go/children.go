package main

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	finalizer    = "vdi.kasm.io/session-cleanup"
	sessionLabel = "vdi.kasm.io/session"
	managedLabel = "app.kubernetes.io/managed-by"
	managedValue = "vdi-operator"
	port         = 8080
)

func labels(s *VDISession) map[string]string {
	return map[string]string{sessionLabel: s.Name, managedLabel: managedValue}
}

func meta(s *VDISession, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: s.Namespace, Name: name, Labels: labels(s)}
}

func host(s *VDISession) string { return s.Name + ".vdi.example.com" }

func pvcSpec() corev1.PersistentVolumeClaimSpec {
	class := "local-path"
	return corev1.PersistentVolumeClaimSpec{
		AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		StorageClassName: &class,
		Resources: corev1.VolumeResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
		},
	}
}

func podSpec(s *VDISession, image string) corev1.PodSpec {
	shm := resource.MustParse("1Gi")
	automount := false
	return corev1.PodSpec{
		AutomountServiceAccountToken: &automount,
		Containers: []corev1.Container{{
			Name:  "desktop",
			Image: image,
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: port}},
			Resources: corev1.ResourceRequirements{
				Limits: corev1.ResourceList{"nvidia.com/gpu": resource.MustParse("1")},
			},
			VolumeMounts: []corev1.VolumeMount{
				{Name: "home", MountPath: "/home/user"},
				{Name: "dshm", MountPath: "/dev/shm"},
			},
		}},
		Volumes: []corev1.Volume{
			{Name: "home", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: s.Name + "-home"},
			}},
			{Name: "dshm", VolumeSource: corev1.VolumeSource{
				EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &shm},
			}},
		},
	}
}

// svcSpec has no cluster IP: allocating one queues inside the API server, and Traefik routes to the pods anyway.
func svcSpec(s *VDISession) corev1.ServiceSpec {
	return corev1.ServiceSpec{
		ClusterIP: corev1.ClusterIPNone,
		Selector:  map[string]string{sessionLabel: s.Name},
		Ports:     []corev1.ServicePort{{Name: "http", Port: port, TargetPort: intstr.FromInt32(port)}},
	}
}

func routeSpec(s *VDISession) IngressRouteSpec {
	return IngressRouteSpec{
		EntryPoints: []string{"websecure"},
		Routes: []Route{{
			Kind:     "Rule",
			Match:    "Host(`" + host(s) + "`)",
			Services: []RouteService{{Name: s.Name, Port: port}},
		}},
	}
}

// children of one session: the pod, which is followed, and those that are only there or not.
type children struct {
	pod    *corev1.Pod
	others []child
}

type child struct{ have, want client.Object }

func lightChildren(s *VDISession, image string) children {
	return children{
		pod: &corev1.Pod{ObjectMeta: meta(s, s.Name), Spec: podSpec(s, image)},
		others: []child{
			{&corev1.PersistentVolumeClaim{}, &corev1.PersistentVolumeClaim{ObjectMeta: meta(s, s.Name+"-home"), Spec: pvcSpec()}},
			{&corev1.Service{}, &corev1.Service{ObjectMeta: meta(s, s.Name), Spec: svcSpec(s)}},
			{&IngressRoute{}, &IngressRoute{ObjectMeta: meta(s, s.Name), Spec: routeSpec(s)}},
		},
	}
}

// phaseOf maps the pod to the session's phase.
func phaseOf(pod *corev1.Pod) string {
	if pod == nil {
		return "Pending"
	}
	if pod.Status.Phase == corev1.PodRunning {
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return "Running"
			}
		}
	}
	if pod.Status.Phase == corev1.PodFailed {
		return "Failed"
	}
	return "Creating"
}
