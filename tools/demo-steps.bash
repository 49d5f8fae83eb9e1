# Sourced by demo: its steps. Each prints what it did and saw, and returns whether it held.
# shellcheck shell=bash disable=SC2154  # root, prefix, work, binary, turn and metrics_address are the demo's

steps=0 failures=0

# step TITLE FUNCTION
step() {
    steps=$((steps + 1))
    printf '\n%2d. %s\n' "$steps" "$1"
    reason=
    if "$2"; then
        printf '    ok\n'
    else
        failures=$((failures + 1))
        printf '    FAILED%s\n' "${reason:+: $reason}"
    fi
}

why() {
    reason=$*
    return 1
}

# typed PROMPT COMMAND...: prints a command as one would type it.
typed() {
    local prompt=$1 line='' word
    shift
    for word in "$@"; do
        [[ $word =~ ^[]A-Za-z0-9_.,:/=+@%[-]+$ ]] || word="'$word'"
        line+=" $word"
    done
    printf '    %s%s\n' "$prompt" "$line"
}

# shown COMMAND...: runs it, prints what it printed, and leaves that in $seen.
shown() {
    local status=0
    seen=$("$@" 2>&1) || status=$?
    [[ -z $seen ]] || printf '      %s\n' "${seen//$'\n'/$'\n'      }"
    return "$status"
}

# jump COMMAND...: runs it at the client and prints both.
jump() {
    typed '$' "$@"
    shown ip netns exec "$prefix-jump" "$@"
}

# milliseconds FROM TO: between two values of EPOCHREALTIME.
milliseconds() {
    awk -v from="$1" -v to="$2" 'BEGIN { printf "%.0f", (to - from) * 1000 }'
}

# remove_manifest NAME: as kubectl delete would.
remove_manifest() {
    typed 'gw$' rm "$1.yaml"
    rm "$work/manifests/$1.yaml"
}

# jump_sees EXTENDED_REGEX COMMAND...
jump_sees() {
    local pattern=$1
    shift
    jump "$@" || why "exit status $?" || return 1
    [[ $seen =~ $pattern ]] || why "expected $pattern"
}

start_gateway() {
    local command=("$binary" run --interface client0 --interface pods0
        --source "manifests:$work/manifests" --dns-listen 10.96.0.10 --dns-allow 10.1.0.0/24
        --service-cidr 10.96.0.0/12 --service-cidr fd00:96::/112 --pod-cidr 10.244.0.0/16
        --pod-cidr fd00:244::/64 --cores "$(($(nproc) - 1))"
        --metrics "$metrics_address" --state-dir "$work/state" --flows 65536)
    typed 'gw$' "${command[@]}"
    nohup ip netns exec "$prefix-gw" "${command[@]}" </dev/null >"$work/tidegate.log" 2>&1 {turn}>&- &
    gateway=$!
    local waits
    for waits in {1..300}; do
        if grep -qE '(^| )ready: ' "$work/tidegate.log"; then
            sed 's/^/      /' "$work/tidegate.log"
            scrape >"$work/metrics-first" || why "it is ready but shows no metrics"
            return
        fi
        kill -0 "$gateway" 2>/dev/null || break
        sleep 0.1
    done
    sed 's/^/      /' "$work/tidegate.log"
    why "tidegate did not get ready (looked $waits times)"
}

only_tidegate_forwards() {
    local forward status=0
    forward=$(ip netns exec "$prefix-gw" sysctl -n net.ipv4.ip_forward)
    typed 'gw$' sysctl -n net.ipv4.ip_forward
    printf '      %s\n' "$forward"
    [[ $forward == 0 ]] || why "the kernel forwards" || return 1
    jump curl -sS --max-time 1 http://10.244.0.11:8080/ || status=$?
    [[ $status -eq 28 ]] || why "a pod's own address was reached past the Service (curl status $status)"
}

resolver_is_a_pods() {
    jump_sees 'search dev.svc.cluster.local.*ndots:5' cat /etc/resolv.conf
}

own_namespace_answers() {
    jump_sees 'pod dev-[12] .* answers 10\.1\.0\.2' curl -sS --max-time 5 http://ent:8080/
}

other_namespace_answers() {
    jump_sees 'pod prod-[12] .* answers 10\.1\.0\.2' curl -sS --max-time 5 http://ent.prod.svc.cluster.local:8080/
}

names_resolve() {
    jump_sees '^10\.96\.1\.10$' dig +short ent.dev.svc.cluster.local || return 1
    jump_sees '^10\.96\.2\.10$' dig +short +tcp ent.prod.svc.cluster.local || return 1
    jump_sees '8080 ent\.dev\.svc\.cluster\.local\.' dig +short SRV _http._tcp.ent.dev.svc.cluster.local || return 1
    jump_sees '^ent\.dev\.svc\.cluster\.local\.$' dig +short -x 10.96.1.10 || return 1
    jump_sees 'Address: 10\.96\.0\.1$' nslookup kubernetes.default
}

missing_name_is_explained() {
    jump_sees 'status: NXDOMAIN' bash -c 'dig ent.staging.svc.cluster.local | grep status:' || return 1
    local command=("$binary" dns explain ent.staging.svc.cluster.local. --source "manifests:$work/manifests")
    typed 'gw$' "${command[@]}"
    shown "${command[@]}" || why "exit status $?" || return 1
    [[ $seen == *NXDOMAIN*'because: the namespace does not exist'* ]] || why "it does not say why"
}

ipv6_answers() {
    jump_sees '^fd00:96::140$' dig +short AAAA edge.dev.svc.cluster.local || return 1
    jump_sees 'pod dev-[12] at fd00:244::1[12] answers fd00:1::2' curl -6 -sS --max-time 5 http://edge:8080/
}

node_port_answers() {
    jump_sees 'pod dev-[12] .* answers 10\.1\.0\.2$' curl -sS --max-time 5 http://10.1.0.1:30080/ || return 1
    jump_sees 'pod dev-[12] .* answers fd00:1::2$' curl -sS --max-time 5 'http://[fd00:1::1]:30080/'
}

address_answers_ping() {
    jump_sees '3 received' ping -c 3 -i 0.2 -W 1 10.96.1.10
}

spread_over_the_pods() {
    # shellcheck disable=SC2016  # expanded by the inner shell
    jump bash -c 'for i in {1..200}; do curl -sS --max-time 5 http://ent:8080/; done | cut -d" " -f1,2 | sort | uniq -c' ||
        why "exit status $?" || return 1
    local total
    total=$(awk '$2 == "pod" && $3 ~ /^dev-[12]$/ { total += $1 } END { print total + 0 }' <<<"$seen")
    [[ $total -eq 200 ]] || why "$total of 200 requests were answered by dev pods" || return 1
    [[ $seen == *dev-1* && $seen == *dev-2* ]] || why "one pod got every request"
}

file_arrives_whole() {
    local sent
    sent=$(sha256sum <"$work/file" | cut -d' ' -f1)
    printf '    sent %s bytes, SHA-256 %s\n' "$(stat -c %s "$work/file")" "$sent"
    # shellcheck disable=SC2016  # expanded by the inner shell
    jump bash -o pipefail -c 'curl -sS --max-time 120 http://ent:8080/file | sha256sum' || why "exit status $?" || return 1
    [[ ${seen%% *} == "$sent" ]] || why "the file arrived different"
}

# Requests one after the other until $work/enough exists: a line each with start, curl's status and the answer.
request_all_the_time() {
    # shellcheck disable=SC2016  # expanded by the inner shell
    ip netns exec "$prefix-jump" bash -c '
        until [[ -e $1/enough ]]; do
            start=$EPOCHREALTIME status=0
            answer=$(curl -sS --max-time 2 http://ent:8080/ 2>&1) || status=$?
            echo "$start $status $answer"
        done' requests "$work" >"$work/requests"
}

# await_answer EXTENDED_REGEX: until a request that begins from now on is answered so.
await_answer() {
    local now=$EPOCHREALTIME waits
    for waits in {1..100}; do
        if awk -v now="$now" -v pattern="$1" '$1 > now && $0 ~ pattern { found = 1 } END { exit !found }' \
            "$work/requests"; then
            return 0
        fi
        sleep 0.1
    done
    why "no answer like \"$1\" (looked $waits times)"
}

pods_go_and_come() {
    rm -f "$work/enough"
    : >"$work/requests"
    request_all_the_time &
    local requests=$! held=0
    replace_a_pod || held=1
    touch "$work/enough"
    wait "$requests"
    [[ $held -eq 0 ]] || return 1
    judge_requests
}

replace_a_pod() {
    await_answer 'pod dev-1' || return 1
    removed_at=$EPOCHREALTIME
    remove_manifest pod-dev-1
    # What a kubelet does: the pod leaves the endpoints first and ends a moment later.
    sleep 1
    effective_at=$EPOCHREALTIME
    typed '#' tools/rig remove dev-1 --prefix "$prefix"
    "$root/tools/rig" remove dev-1 --prefix "$prefix"
    await_answer 'pod dev-2' || return 1
    sleep 1
    typed '#' tools/rig add dev-3 10.244.0.13 --prefix "$prefix"
    "$root/tools/rig" add dev-3 10.244.0.13 --prefix "$prefix"
    echo '    the pod dev-3 starts; its manifest arrives'
    start_pod dev-3 10.244.0.13
    await_answer 'pod dev-3'
}

judge_requests() {
    awk -v removed="$removed_at" -v effective="$effective_at" '
        function phase(start) { return start < removed ? 1 : start < effective ? 2 : 3 }
        { total[phase($1)]++; if ($2 != 0) { failed[phase($1)]++; print "      failed: " $0 }
          else { count[phase($1), $4]++; pods[$4] } }
        END {
            split("before the removal|in the second after it|from then on", names, "|")
            for (p = 1; p <= 3; p++) {
                printf "      %-24s %4d requests, %d failed;", names[p], total[p], failed[p]
                for (pod in pods) if (count[p, pod]) printf " %s: %d", pod, count[p, pod]
                print ""
            }
            exit failed[1] + failed[2] + failed[3] > 0 || count[3, "dev-1"] > 0 || !count[3, "dev-2"] || !count[3, "dev-3"]
        }' "$work/requests" || why "requests failed, or went to the wrong pod"
}

# The pods take their links with them: no FIN, no RST, no ICMP comes from there any more.
dead_pods_are_told_of() {
    # shellcheck disable=SC2016  # expanded by the inner shell
    local hold='exec 3<>/dev/tcp/10.96.2.10/8080; printf "GET / HTTP/1.1\r\nHost: ent\r\n\r\n" >&3; cat <&3'
    typed '$' bash -c "$hold"
    ip netns exec "$prefix-jump" timeout 20 bash -c "$hold" >"$work/held" 2>&1 {turn}>&- &
    local client=$! status=0 gone took waits=0
    until grep -q 'pod prod-[12]' "$work/held"; do
        sleep 0.05
        waits=$((waits + 1))
        [[ $waits -lt 100 ]] || why "no answer to the request" || return 1
    done
    sed -n 's/\r$//; s/^pod /      &/p' "$work/held"
    local pod
    for pod in prod-1 prod-2; do
        typed "$pod\$" ip link set eth0 down
        ip -n "$prefix-$pod" link set eth0 down
    done
    gone=$EPOCHREALTIME
    remove_manifest pod-prod-1
    remove_manifest pod-prod-2
    wait "$client" || status=$?
    took=$(milliseconds "$gone" "$EPOCHREALTIME")
    sed -n 's/^cat: /      &/p' "$work/held"
    printf '    told %s ms after the pods had left the endpoints; the grace time is 1000 ms\n' "$took"
    grep -q 'Connection reset by peer' "$work/held" || why "expected a reset (status $status)" || return 1
    [[ $took -ge 900 && $took -lt 3000 ]] || why "expected soon after the grace time"
}

hollow_service_refuses() {
    local status=0 start=$EPOCHREALTIME took
    jump curl -sS --max-time 5 http://hollow:8080/ || status=$?
    took=$(milliseconds "$start" "$EPOCHREALTIME")
    printf '    curl status %s after %s ms\n' "$status" "$took"
    [[ $status -eq 7 ]] || why "expected status 7, connection refused" || return 1
    [[ $took -lt 1000 ]] || why "refused too late"
}

removed_service_refuses() {
    local status=0 removed tries command=(curl -sS --max-time 5 http://10.96.1.40:8080/)
    jump_sees 'pod dev-[123] ' "${command[@]}" || return 1
    remove_manifest edge
    removed=$EPOCHREALTIME
    # The address goes on for --vip-linger, 1 s, for who has just asked for the name.
    for tries in {1..100}; do
        seen=$(ip netns exec "$prefix-jump" "${command[@]}" 2>&1) || { status=$? && break; }
        sleep 0.05
    done
    typed '$' "${command[@]}"
    printf '      %s\n' "$seen"
    printf '    curl status %s, first %s ms after the removal (--vip-linger is 1 s), at try %s\n' "$status" \
        "$(milliseconds "$removed" "$EPOCHREALTIME")" "$tries"
    [[ $status -eq 7 ]] || why "expected status 7, connection refused; 28 would be a time-out"
}

scrape() {
    ip netns exec "$prefix-gw" curl -sS --max-time 3 "http://$metrics_address/metrics"
}

# counters FILE: `name value` for each tidegate packet counter, summed over the workers.
counters() {
    awk '/^tidegate_/ { name = $1; sub(/[{].*/, "", name); sub(/^tidegate_/, "", name); sub(/_total$/, "", name)
                        if (name !~ /^frames/) sum[name] += $NF }
         END { for (name in sum) printf "%s %.0f\n", name, sum[name] }' "$1" | sort
}

# frames FILE: `place number`, summed over the workers.
frames() {
    awk '/^tidegate_frames[{]/ { match($0, /place="[^"]*"/); sum[substr($0, RSTART + 7, RLENGTH - 8)] += $NF }
         END { for (place in sum) printf "%s %.0f\n", place, sum[place] }' "$1" | sort
}

accounts_balance() {
    scrape >"$work/metrics" || why "no metrics" || return 1
    counters "$work/metrics" | awk '
        { value[$1] = $2 }
        $1 ~ /^answered_/ { value["answered"] += $2 }
        $1 ~ /^drop_/ { drops += $2; if ($2 > 0) detail = detail sprintf("      %12d %s\n", $2, $1) }
        END {
            received = value["forwarded"] + value["answered"] + value["punted"] + value["held"] + drops
            received += value["handed_over"] - value["taken_over"]
            sent = value["forwarded"] + value["answered"] + value["punted"] + value["originated"]
            printf "    received %d = forwarded %d + answered %d + punted %d + held %d + drops %d\n%s", value["rx_packets"],
                value["forwarded"], value["answered"], value["punted"], value["held"], drops, detail
            if (value["handed_over"] > 0)
                printf "      of them %d fragments by way of another worker\n", value["handed_over"]
            printf "    sent %d = forwarded %d + answered %d + punted %d + originated %d\n", value["tx_packets"],
                value["forwarded"], value["answered"], value["punted"], value["originated"]
            exit !(received == value["rx_packets"] && sent == value["tx_packets"] && value["forwarded"] > 0)
        }' || why "packets are missing from the accounts" || return 1
    frames "$work/metrics-first" >"$work/frames-first"
    frames "$work/metrics" | awk -v first="$work/frames-first" '
        BEGIN { while ((getline line < first) > 0) { split(line, part, " "); if (part[1] != "all") before += part[2] } }
        $1 == "all" { all = $2; next }
        { now += $2; list = list (list ? " + " : "") $1 " " $2 }
        END {
            printf "    frames at the start %d, now %d = %s\n", before, now, list
            exit !(now > 0 && now == before && (!all || all == now))
        }' || why "frames are missing from the accounts"
}

leaves_nothing_behind() {
    local status=0 left
    kill -TERM "$gateway"
    wait "$gateway" || status=$?
    gateway=
    printf '    tidegate ended with status %s\n' "$status"
    [[ $status -eq 0 ]] || why "expected 0" || return 1
    left=$(ip -n "$prefix-gw" -d link | grep -oE 'prog/xdp.*|tide[01][@:]' || true)
    left+=$(ip -n "$prefix-gw" addr show dev lo | grep -o 'inet 10\.96.*' || true)
    [[ -z $left ]] || why "left in the gateway: $left"
}
