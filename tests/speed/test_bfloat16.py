"""What the log says of bfloat16, for the CPUs that Linux describes in these words."""

import pytest
import torch

from pspnet_plugin.speed import bfloat16

XEON = 'processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: fpu avx512f avx512_bf16 {}\n'
CPUS = {
    XEON.format('amx_bf16 amx_tile'): 'by AMX.',
    XEON.format(''): 'by AVX512-BF16.',
    'flags\t\t: fpu avx2\nbugs\t\t: amx_bf16\n': 'neither AMX nor AVX512-BF16: ',
    'processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n': 'by BF16.',
}


@pytest.mark.parametrize('cpuinfo', CPUS)
def test_the_fastest_instructions_of_the_cpu_are_named(cpuinfo, tmp_path, monkeypatch):
    path = tmp_path / 'cpuinfo'
    path.write_text(cpuinfo)
    monkeypatch.setattr(bfloat16, 'CPUINFO', path)
    assert CPUS[cpuinfo] in bfloat16.bfloat16_on_this_cpu()


def test_a_system_that_does_not_tell_is_not_called_slow(tmp_path, monkeypatch):
    monkeypatch.setattr(bfloat16, 'CPUINFO', tmp_path / 'missing')
    assert 'not known' in bfloat16.bfloat16_on_this_cpu()


def test_torch_says_the_same_of_this_cpu():
    features = bfloat16.cpu_features()
    if not hasattr(torch.cpu, '_is_avx512_bf16_supported') or not features:
        pytest.skip('this torch or this system does not tell')
    assert ('avx512_bf16' in features) == torch.cpu._is_avx512_bf16_supported()
