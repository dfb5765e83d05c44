#!/bin/bash
# timeout: 120
# What a service manager hears of both programs: ready when the ports are open, the watchdog as long as they turn, reloading, stopping; and
# `bitnet healthcheck` on the running pair.
cd "$(dirname "$0")/.." || exit 1
build=${BITNET_BUILD:-build/release}
exec python3 - "$build" <<'EOF'
import os, signal, socket, subprocess, sys, tempfile, time
build = sys.argv[1]
dir = tempfile.mkdtemp()
for name in [n for n in os.environ if n.startswith('BITNET_')]: del os.environ[name]

def free():
    s = socket.socket(); s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]; s.close(); return port

class Manager:
    """One service: its socket, its process, and the lines that it has said."""
    def __init__(self, name, args):
        path = os.path.join(dir, name)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); self.socket.bind(path)
        self.lines = []
        self.log = open(path + '.log', 'w+')
        self.process = subprocess.Popen([os.path.join(build, name)] + args, stderr=self.log, stdout=self.log,
                                        env={**os.environ, 'NOTIFY_SOCKET': path, 'WATCHDOG_USEC': '200000'})
    def hear(self, seconds):
        self.socket.settimeout(seconds)
        try: self.lines += self.socket.recv(4096).decode().split('\n')
        except socket.timeout: pass
    def until(self, what, seconds=30):
        end = time.monotonic() + seconds
        while what not in self.lines and time.monotonic() < end and self.process.poll() is None: self.hear(0.1)
        self.hear(0.001)
        return what in self.lines
    def shown(self):
        self.log.seek(0)
        return '\n'.join(map(str, self.lines)) + '\n' + self.log.read()

def case(name, ok, manager):
    print(('ok ' if ok else 'not ok ') + 'notify: ' + name)
    if not ok: print('\n'.join('  # ' + line for line in manager.shown().split('\n')))

def life(name, args, probe, others):
    m = Manager(name, args)
    try:
        case(f'{name} says that it is ready', m.until('READY=1', 60), m)
        answered = subprocess.run([f'{build}/bitnet', 'healthcheck', probe]).returncode
        case(f'{name} answers bitnet healthcheck then', answered == 0, m)
        m.lines = []
        case(f'{name} tells the watchdog', m.until('WATCHDOG=1'), m)
        m.process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        while m.socket.settimeout(0.01) is None:
            try: m.socket.recv(4096)
            except socket.timeout: break
        m.lines = []
        m.hear(0.6)
        case(f'{name} does not when it stands still', m.lines == [], m)
        m.process.send_signal(signal.SIGCONT)
        case(f'{name} does again when it turns', m.until('WATCHDOG=1'), m)
        m.lines = []
        m.process.send_signal(signal.SIGHUP)
        ok = m.until('RELOADING=1') and m.until('READY=1')
        case(f'{name} says when it reads its files again', ok and m.lines.index('RELOADING=1') < m.lines.index('READY=1'), m)
        others()
        m.process.send_signal(signal.SIGTERM)
        ok = m.until('STOPPING=1')
        case(f'{name} says that it stops, and does', ok and m.process.wait(60) == 0, m)
        ill = subprocess.run([f'{build}/bitnet', 'healthcheck', probe], stderr=subprocess.PIPE, text=True)
        case(f'{name} is ill for bitnet healthcheck then', ill.returncode == 1 and 'cannot connect' in ill.stderr, m)
    finally:
        if m.process.poll() is None: m.process.kill()

e, ea, g, ga = free(), free(), free(), free()
life('bitnet-engine', ['--model', 'models/tales.gguf', '--listen', f'127.0.0.1:{e}', '--admin-listen', f'127.0.0.1:{ea}', '--lame-duck-ms', '0'],
     f'http://127.0.0.1:{ea}/health/ready', lambda: life(
         'bitnet-gateway', ['--engine', f'127.0.0.1:{e}', '--listen', f'127.0.0.1:{g}', '--admin-listen', f'127.0.0.1:{ga}', '--threads', '3', '--lame-duck-ms', '0'],
         f'http://127.0.0.1:{ga}/health/live', lambda: None))
EOF
