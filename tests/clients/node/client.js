// The npm package ssh2 as a client of the tests: see tests/program/clients.rs for what it is asked to do.
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const { promisify } = require('node:util');
const { Client, utils } = require('ssh2');

const [method, action, ...words] = process.argv.slice(2);

function connect() {
  const connection = new Client();
  const hostKey = utils.parseKey(process.env.HOST_KEY).getPublicSSH();
  const settings = {
    host: '127.0.0.1',
    port: Number(process.env.PORT),
    username: 'alice',
    hostVerifier: (key) => key.equals(hostKey),
  };
  const password = process.env.PASSWORD;
  settings.authHandler = {
    key: ['publickey'],
    password: ['password'],
    'keyboard-interactive': ['keyboard-interactive'],
  }[method];
  if (method === 'key') settings.privateKey = fs.readFileSync(process.env.KEY);
  else settings.password = password;
  settings.tryKeyboard = method === 'keyboard-interactive';
  connection.on('keyboard-interactive', (name, instructions, language, prompts, finish) =>
    finish(prompts.map(() => password)));
  return new Promise((resolve, reject) => {
    connection.on('ready', () => resolve(connection)).on('error', reject).connect(settings);
  });
}

// Connects our standard input and outputs with the stream's, until that is closed.
function relay(stream) {
  process.stdin.pipe(stream);
  stream.on('data', (data) => process.stdout.write(data));
  if (stream.stderr) stream.stderr.on('data', (data) => process.stderr.write(data));
  return new Promise((resolve, reject) => {
    let end = 0;
    stream.on('exit', (status, signal) => {
      end = status;
      if (signal) {
        process.stderr.write(`signal ${signal.replace('SIG', '')}\n`);
        end = 255;
      }
    });
    stream.on('error', reject).on('close', () => resolve(end));
  });
}

// Not by a promise: the command's end may come with its beginning, before whoever awaits that goes on.
function execute(connection, command, options) {
  return new Promise((resolve, reject) => {
    connection.exec(command, options, (error, stream) => (error ? reject(error) : resolve(relay(stream))));
  });
}

async function files(connection, near, far, back) {
  const sftp = await promisify(connection.sftp.bind(connection))();
  const call = (name, ...rest) => promisify(sftp[name].bind(sftp))(...rest);
  await call('fastPut', near, far);
  assert.equal((await call('stat', far)).size, fs.statSync(near).size);
  await call('mkdir', far + '.d');
  await call('ext_openssh_rename', far, far + '.d/moved');
  await call('symlink', 'moved', far + '.d/link');
  const names = (await call('readdir', far + '.d')).map((entry) => entry.filename);
  assert.deepEqual(names.sort(), ['link', 'moved']);
  assert.equal(await call('readlink', far + '.d/link'), 'moved');
  await call('chmod', far + '.d/moved', 0o640);
  const file = await call('open', far + '.d/link', 'r+');
  await call('write', file, Buffer.from('berth'), 0, 5, 3);
  await call('close', file);
  await call('fastGet', far + '.d/moved', back);
  await assert.rejects(call('unlink', far + '.d/nothing'), /No such file/);
}

async function listen(connection) {
  connection.on('tcp connection', (info, accept) => {
    const stream = accept();
    let question = '';
    stream.on('data', (data) => { question += data; });
    stream.on('end', () => stream.end('you said ' + question));
  });
  const port = await promisify(connection.forwardIn.bind(connection))('127.0.0.1', 0);
  const status = await execute(connection, `echo hello | nc 127.0.0.1 ${port}`, {});
  await promisify(connection.unforwardIn.bind(connection))('127.0.0.1', port);
  return status;
}

async function main() {
  const connection = await connect();
  try {
    switch (action) {
      case 'exec': return await execute(connection, words[0], {});
      case 'terminal':
        return await execute(connection, words[0], { pty: { term: 'vt220', rows: 40, cols: 100, width: 0, height: 0 } });
      case 'connect': {
        const forward = promisify(connection.forwardOut.bind(connection));
        return await relay(await forward('127.0.0.1', 0, words[0], Number(words[1])));
      }
      case 'listen': return await listen(connection);
      case 'files': return await files(connection, ...words);
      default: throw new Error(`no action ${action}`);
    }
  } finally {
    connection.end();
    process.stdin.destroy();
  }
}

main().then((status) => { process.exitCode = status ?? 0; }, (error) => {
  if (error.level === 'client-authentication') error.message = 'authentication failed: ' + error.message;
  console.error(error);
  process.exitCode = 1;
});
