#!/usr/bin/node
// The attacks from Node: what the language can do itself natively, the rest by a child program (ATTACK_CHILD), for which it
// needs child_process, itself one of the attempts. Answers /VERB?ARGUMENT&… as examples/attack does; the header "How" says
// who did it.
import fs from "node:fs";
import net from "node:net";
import http from "node:http";
import dgram from "node:dgram";
import { spawnSync } from "node:child_process";

const PROGRAM = process.env.ATTACK_CHILD;
const kept = [];

const untilRefused = (most, once) => {
  for (let done = 0; done < Number(most); done++) {
    try {
      once(done);
    } catch (error) {
      return `${error.code} after ${done}`;
    }
  }
  return `ok ${most}`;
};

const connect = (options) =>
  new Promise((resolve, reject) => {
    const socket = net.connect(options);
    const timer = setTimeout(() => reject({ code: "ETIMEDOUT" }), 3000);
    socket.once("connect", () => resolve(clearTimeout(timer), socket.destroy()));
    socket.once("error", (error) => reject(clearTimeout(timer) ?? error));
  });

const listen = (path) =>
  new Promise((resolve, reject) => {
    const server = net.createServer();
    server.once("error", reject);
    server.listen(path, () => server.close(() => resolve()));
  });

const address = (to) => {
  const at = to.lastIndexOf(":");
  return { host: to.slice(0, at).replace(/[[\]]/g, ""), port: Number(to.slice(at + 1)) };
};

const datagram = (to) =>
  new Promise((resolve, reject) => {
    const { host, port } = address(to);
    const socket = dgram.createSocket(host.includes(":") ? "udp6" : "udp4");
    socket.once("error", (error) => reject(error));
    socket.send("x", port, host, (error) => (socket.close(), error ? reject(error) : resolve()));
  });

const cleared = (prefix, most, said) => {
  for (let n = 0; n < Number(most); n++) fs.rmSync(`${prefix}-${n}`, { force: true });
  return said;
};

const run = (path, ...words) => {
  const done = spawnSync(path, words, { encoding: "utf8" });
  if (done.error) throw done.error;
  return done.status === 0 ? done.stdout.trim() : `failed ${done.status ?? done.signal}`;
};

// mov edi, 42; mov eax, 60; syscall, as an ELF file of one segment.
const ELF = Buffer.from(
  "7f454c4602010100000000000000000002003e0001000000780040000000000040000000000000000000000000000000" +
    "000000004000380001000000000000000100000005000000000000000000000000004000000000000000400000000000" +
    "840000000000000084000000000000000010000000000000bf2a000000b83c0000000f05",
  "hex",
);

const verbs = {
  open: (path) => void fs.openSync(path, "r"),
  opath: (path) => void fs.openSync(path, fs.constants.O_RDONLY | 0o10000000),
  write: (path) => fs.writeFileSync(path, "x"),
  stat: (path) => void fs.lstatSync(path),
  list: (path) => "ok " + fs.readdirSync(path).join(" "),
  chdir: (path) => process.chdir(path),
  unlink: (path) => fs.unlinkSync(path),
  mkdir: (path) => fs.mkdirSync(path),
  inotify: (path) => fs.watch(path).close(),
  "connect-unix": (path) => connect({ path }),
  "bind-unix": (path) => listen(path),
  signal: (pid, signal) => void process.kill(Number(pid), Number(signal)),
  setuid: (uid) => process.setuid(Number(uid)),
  setgid: (gid) => process.setgid(Number(gid)),
  setgroups: (gid) => process.setgroups([Number(gid)]),
  visible: () => {
    const foreign = fs
      .readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name) && fs.statSync(`/proc/${name}`).uid !== process.getuid());
    return foreign.length ? `ok ${foreign.length} of others` : "own";
  },
  eat: (megabytes) => {
    for (let n = 0; n < Number(megabytes); n++) kept.push(Buffer.alloc(1 << 20, 1));
  },
  fill: (folder, megabytes) =>
    cleared(`${folder}/fill`, megabytes, untilRefused(megabytes, (n) => fs.writeFileSync(`${folder}/fill-${n}`, Buffer.alloc(1 << 20, 1)))),
  inodes: (folder, most) =>
    cleared(`${folder}/inode`, most, untilRefused(most, (n) => fs.writeFileSync(`${folder}/inode-${n}`, ""))),
  descriptors: (most) => {
    const open = [];
    const said = untilRefused(most, () => open.push(fs.openSync("/dev/null", "r")));
    open.forEach((fd) => fs.closeSync(fd));
    return said;
  },
  run,
  tcp: (to) => connect(address(to)),
  udp: datagram,
  "execute-file": (folder) => {
    const path = `${folder}/downloaded-${process.pid}`;
    fs.writeFileSync(path, ELF, { mode: 0o755 });
    const done = spawnSync(path);
    if (done.error) throw done.error;
    return done.status === 42 ? "ok it ran" : `failed ${done.status}`;
  },
};

// The program in here is for that machine.
if (process.arch !== "x64") delete verbs["execute-file"];

const answer = async (verb, words) => {
  const native = verbs[verb];
  if (!native) return ["child", run(PROGRAM, "apart", verb, ...words)];
  try {
    return ["native", (await native(...words)) ?? "ok"];
  } catch (error) {
    return ["native", error.code ?? String(error)];
  }
};

http
  .createServer(async (request, response) => {
    const [path, query = ""] = request.url.split("?");
    const verb = path.replaceAll("/", "");
    const words = query.split("&").filter(Boolean).map(decodeURIComponent);
    const [how, body] = verb ? await answer(verb, words).catch((error) => ["failed", String(error)]) : ["native", String(process.pid)];
    response.writeHead(200, { "Content-Length": Buffer.byteLength(body), How: how, Connection: "close" });
    response.end(body);
  })
  .listen({ fd: 3 });
