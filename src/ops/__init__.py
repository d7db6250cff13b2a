"""Pure functions on tensors that the models are built from."""

from .convolution import fft_conv as fft_conv
from .convolution import next_fast_length as next_fast_length
from .diagonal import vandermonde as vandermonde
from .diagonal import vandermonde_plain as vandermonde_plain
from .diagonal import vandermonde_transpose as vandermonde_transpose
from .hippo import legs_matrix as legs_matrix
from .hippo import legs_normal_part as legs_normal_part
from .hippo import legs_spectrum as legs_spectrum
from .hippo import legs_vector as legs_vector
from .pairs import Pair as Pair
from .pairs import divide as divide
from .pairs import expm1 as expm1
from .pairs import log_mobius as log_mobius
from .pairs import multiply as multiply
from .pairs import phi1 as phi1
from .pairs import to_pair as to_pair
from .processes import sum_over_processes as sum_over_processes
from .processes import world_size as world_size
