# policy.yaml in Rego. data.trusted holds the user ids that may use every device, data.devices all devices.
package routing

import rego.v1

allowed contains device if {
	some device in data.devices
	not barred(device)
}

barred(device) if {
	device != "cpu"
	not input.uid in data.trusted
}

default rule := "default"

rule := "small-batch-inference" if {
	startswith(input.workload, "ml.")
	input.batch <= 4096
} else := "batch-at-night" if {
	startswith(input.client, "batch-")
	night
} else := "large-data" if {
	input.work >= 1000000
}

night if input.minute >= 1320

night if input.minute < 360

answer := {"allowed": allowed, "rule": rule}
